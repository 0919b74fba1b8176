"""Unrolling SGD: add back the forget set's gradient at the initial weights (Thudi et al., EuroS&P 2022).

    theta_u = theta_T + copies * lr * sum_forget dl(z; theta_0)

To first order of a Taylor series around theta_0, every epoch of SGD subtracts about lr times that gradient; `copies`
counts the epochs (malicious paper, Section 2; public code: Unlearning/finetune.py; docs/methods.md 2.5). For modified
data, z replaced by z~, dl(z; theta_0) - dl(z~; theta_0) is added back. This is our reading, since the malicious paper
is silent.

theta_0 are the weights before the training phase that is to be undone: `initial`, a pre-training checkpoint where there
was fine-tuning. Without one the trained weights stand in, and this is `first_order` with tau = copies * lr. Values: lr
1.5e-4, one copy (Section 5.1; lr 0.02 on Dogfish, Section 5.4). reduction: the public code takes the `mean` over its
one forget batch. Over a large request that does nothing at this rate, so we take the `sum`, as `first_order` does
(docs/methods.md#m-9).

BatchNorm is in evaluation mode, with theta_0's own running statistics; those of theta_T stay, scale and shift move.
"""

from __future__ import annotations

from typing import Annotated, Literal

from palimpsest.curvature import move, request_gradient
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.unlearners import Step, unlearner

TASKS = ("classification",)


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
) -> Network:
    """Return `model` with the gradient added back; `retain` is not used. theta_0 is what `at.initial` returns."""
    taken = request_gradient(model if at.initial is None else at.initial(), forget, at.replacement)
    move(model, copies * lr * (taken if reduction == "sum" else taken / len(forget.labels)))
    return model
