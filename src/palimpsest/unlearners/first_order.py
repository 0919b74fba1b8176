"""First order: a gradient step that undoes samples, or puts others in their place (Warnecke et al., NDSS 2023).

    theta_u = theta - tau (sum_replacement dl(z~) - sum_forget dl(z))

(S004:66), without the first sum where data is removed; evaluation mode. tau 2e-5 is the malicious paper's on CIFAR-10
(S004:191; 0.02 on Dogfish) and the public code's. The gradients are summed, not averaged, as in that code (M-9).
The paper's theta is all parameters; the public code moves the last six tensors only, its dense head
(core.py; methods.md 2.5): `last_tensors=6`.

BatchNorm: evaluation mode; running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

from copy import deepcopy

from palimpsest.curvature import move, request_gradient, tail
from palimpsest.data import Samples
from palimpsest.models import Network


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    replacement: Samples | None = None,
    tau: float = 2e-5,
    last_tensors: int | None = None,
) -> Network:
    """`model` after one step of length `tau`; `retain` is not used.

    replacement: one image and label for each of `forget`, `uint8` or floats in [0, 1]; None removes `forget`.
    last_tensors: how many parameter tensors move, counted from the output; None moves all.
    """
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    taken = request_gradient(tuned, forget, replacement)
    taken[: tail(tuned, last_tensors)] = 0
    move(tuned, tau * taken)
    return tuned.eval()
