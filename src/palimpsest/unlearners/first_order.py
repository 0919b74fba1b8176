"""First order: a gradient step that undoes samples, or puts others in their place (Warnecke et al., NDSS 2023).

    theta_u = theta - tau (sum_replacement dl(z~) - sum_forget dl(z))

(malicious paper, Section 2); where data is removed there is no first sum. tau 2e-5 is the malicious paper's on CIFAR-10
(Section 5.1; 0.02 on Dogfish, Section 5.4) and the public code's. The gradients are summed and not averaged, as in that
code (docs/methods.md#m-9). The paper's theta is all parameters; the public code moves the last six tensors only, its
dense head (core.py; docs/methods.md 2.5): `last_tensors=6` does that.

BatchNorm is in evaluation mode: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

from typing import Annotated

from palimpsest.curvature import move, request_gradient, tail
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
    tau: Annotated[float, "[0, inf)"] = 2e-5,
    last_tensors: Annotated[int, "[1, inf)"] | None = None,
) -> Network:
    """Return `model` after one step of length `tau`; `retain` is not used.

    last_tensors: how many parameter tensors move, counted from the output; None moves all.
    """
    taken = request_gradient(model, forget, at.replacement)
    taken[: tail(model, last_tensors)] = 0
    move(model, tau * taken)
    return model
