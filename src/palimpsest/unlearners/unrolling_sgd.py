"""Unrolling SGD: add back the forget set's gradient at the initial weights (Thudi et al., EuroS&P 2022).

    theta_u = theta_T + copies * lr * sum_forget dl(z; theta_0)

To first order of a Taylor series around theta_0, every epoch of SGD subtracts about lr times that gradient; `copies`
counts the epochs (malicious paper, Section 2; public code: Unlearning/finetune.py; docs/methods.md 2.5). For modified
data, z replaced by z~, dl(z; theta_0) - dl(z~; theta_0) is added back. This is our reading, since the malicious paper
is silent.

theta_0 are "the initial weights". With `theta_0="initial"` they are those with which training began: random ones, or
published ones. Then BatchNorm takes each batch's statistics (of up to 512 samples of the request), as the step that is
undone did: a fresh network's running statistics are those of no data, and the gradient with them has nothing to do with
that step (docs/methods.md#m-10). A single sample has none, and meets the running ones, as in training. With
`theta_0="trained"` they are theta_T, in evaluation mode, and this is `first_order` with tau = copies * lr. The public
code's are a checkpoint between pre-training and fine-tuning. Where training has one phase there is none, so `trained`
is the default (our decision); a network that began with published weights has one, `initial`. The running statistics of
neither network change; scale and shift move.

Values: lr 1.5e-4, one copy (Section 5.1; lr 0.02 on Dogfish, Section 5.4). reduction: the public code takes the `mean`
over its one forget batch. Over a large request that does nothing at this rate, so we take the `sum`, as `first_order`
does (docs/methods.md#m-9).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Literal

from palimpsest.curvature import of_batches, place, weights
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.ranges import checked
from palimpsest.unlearners import Response, Step, unlearner

TASKS = ("classification",)
NO_EPOCHS = True  # the plan counts its passes over the data, not a training's


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    lr: Annotated[float, "[0, inf)"] = 1.5e-4,
    copies: Annotated[int, "[1, inf)"] = 1,
    reduction: Literal["sum", "mean"] = "sum",
    theta_0: Literal["initial", "trained"] = "trained",
) -> Network:
    """Return `model` with the gradient added back; `retain` is not used.

    theta_0: where the gradient is taken, at the weights that `at.initial` returns or at those of `model`. Raises
    `ValueError` where the first are wanted and not known.
    """
    found = response(model, forget, retain, at, lr=lr, copies=copies, reduction=reduction, theta_0=theta_0)
    return place(model, found.answer(forget, at.replacement))


@checked
def response(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    lr: Annotated[float, "[0, inf)"] = 1.5e-4,
    copies: Annotated[int, "[1, inf)"] = 1,
    reduction: Literal["sum", "mean"] = "sum",
    theta_0: Literal["initial", "trained"] = "trained",
) -> Response:
    """The same as a map: a multiple of the vector, with the gradient at theta_0."""
    rate = copies * lr / (len(forget.labels) if reduction == "mean" else 1)
    if theta_0 == "trained":
        slope = deepcopy(model).eval()
    elif at.initial is None:
        raise ValueError("unrolling_sgd: the weights with which training began are not known; `theta_0: trained`")
    else:
        slope = deepcopy(at.initial())
        slope = of_batches(slope) if len(forget.labels) > 1 else slope.eval()
    return Response(weights(model), slope, lambda vector: rate * vector)
