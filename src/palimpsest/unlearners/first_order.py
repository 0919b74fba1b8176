"""First order: a gradient step that undoes samples, or puts others in their place (Warnecke et al., NDSS 2023).

    theta_u = theta - tau (sum_replacement dl(z~) - sum_forget dl(z))

(malicious paper, Section 2); where data is removed there is no first sum. tau 2e-5 is the malicious paper's on CIFAR-10
(Section 5.1; 0.02 on Dogfish, Section 5.4) and the public code's. The gradients are summed and not averaged, as in that
code (docs/methods.md#m-9). The paper's theta is all parameters; the public code moves the last six tensors only
(core.py), which in its network are two dense layers with a BatchNorm between (model.py:42-45). `layers="head"` moves
the last dense layer alone.

BatchNorm is in evaluation mode: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Literal

from palimpsest.curvature import moving, place, weights
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
    tau: Annotated[float, "[0, inf)"] = 2e-5,
    layers: Literal["all", "head"] = "all",
) -> Network:
    """Return `model` after one step of length `tau`; `retain` is not used.

    layers: which weights move, all or those of the last dense layer, of an ensemble each member's.
    """
    return place(model, response(model, forget, retain, at, tau=tau, layers=layers).answer(forget, at.replacement))


@checked
def response(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    tau: Annotated[float, "[0, inf)"] = 2e-5,
    layers: Literal["all", "head"] = "all",
) -> Response:
    """The same as a map: tau where a weight moves, else 0."""
    moves = moving(model, layers)
    return Response(weights(model), deepcopy(model).eval(), lambda vector: tau * (vector * moves))
