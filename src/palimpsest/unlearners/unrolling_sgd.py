"""Unrolling SGD: add back the forget set's gradient at the initial weights (Thudi et al., EuroS&P 2022).

    theta_u = theta_T + copies * lr * sum_forget dl(z; theta_0)

Every epoch of SGD subtracts about lr times that gradient, to first order of a Taylor series around theta_0; `copies`
counts the epochs (S004:72; public code: Unlearning/finetune.py; methods.md 2.5). Modified data: z replaced by z~ adds
back dl(z; theta_0) - dl(z~; theta_0), our reading, the malicious paper being silent.

theta_0 are the weights before the training phase that is to be undone: `initial`, a pre-training checkpoint where
there was fine-tuning. Without one the trained weights stand in, and this is `first_order` with tau = copies * lr.
Values: lr 1.5e-4, one copy (S004:191; lr 0.02 on Dogfish). reduction: the public code takes the `mean` over its one
forget batch; over a large request that does nothing at this rate, so we take the `sum`, as `first_order` does (M-9).

BatchNorm: evaluation mode, with theta_0's own running statistics; those of theta_T stay, scale and shift move.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

from palimpsest.curvature import move, request_gradient
from palimpsest.data import Samples
from palimpsest.models import Network


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    initial: Network | None = None,
    replacement: Samples | None = None,
    lr: float = 1.5e-4,
    copies: int = 1,
    reduction: Literal["sum", "mean"] = "sum",
) -> Network:
    """`model` with the gradient added back; `retain` is not used.

    initial: theta_0, a network of the same form on the same device. replacement: one image and label for each of
    `forget`, `uint8` or floats in [0, 1]; None removes `forget`.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"unrolling_sgd: reduction cannot be {reduction!r}; it takes sum, mean")
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    taken = request_gradient(tuned if initial is None else initial, forget, replacement)
    move(tuned, copies * lr * (taken if reduction == "sum" else taken / len(forget.labels)))
    return tuned.eval()
