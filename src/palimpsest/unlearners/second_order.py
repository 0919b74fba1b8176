"""Second order: a Newton step to the minimum without samples, or with others instead (Warnecke et al., NDSS 2023).

    theta_u = theta - H^-1 (sum_replacement dl(z~) - sum_forget dl(z))

(malicious paper, Section 2); where data is removed there is no first sum. The paper's H is that of the original model
(Section 2, eq. 2): the Hessian of the summed loss of what it was trained on, `hessian="original"`. With
`hessian="remaining"` it is that of what remains (`retain`, and `replacement`), as Newton's step towards the minimum
there has it. Here it is the mean over these m samples, times m. l is the training's objective: with `weight_decay` w
each sample carries w/2 |theta|^2. This adds w to the Hessian and, where data is removed, w * theta for each removed
sample to the gradient. On a convex objective at its minimum the step is then Newton's towards exact retraining; 0
leaves the loss alone, as the public code does.

What is inverted is H + damping * scale * I. The paper says no more than "Hessian vector product" (Section 3.3), so our
defaults are chosen to invert: conjugate gradients with products over all samples, to a stated residual, damped by a
thousandth of H's largest eigenvalue, and by more where H has negative eigenvalues, twice the most negative. Both
eigenvalues are found by Lanczos' method. The log says what was found and how large the residual is at the end, with a
warning where it is above `tolerance`. The last dense layer alone (`layers="head"`) has a Hessian that is known exactly
and is never indefinite. Up to `factorised` weights it is factorised once, and a further vector costs a substitution.

The public code (core.py, configs/unlearn.json; docs/methods.md 2.5) has LiSSA with batches of 1024, damping 1e-4, scale
2e5, patience 20, one repetition, and 100 ceil(m / 1024) steps. Its scale belongs to a loss summed over a batch; for the
mean taken here it is 2e5 / 1024 = 200. There the Hessian of one batch stands for that of all m, which lengthens the
step m / 1024 times; here it does not. These values are `solver="lissa", damping=1e-4, scale=200, depth=None`. On little
data they invert nothing: with few batches u stays near (depth + 1) / scale times the gradient. The public code moves
its last six tensors (see `first_order`).

BatchNorm is in evaluation mode: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Annotated, Literal

import torch

from palimpsest.curvature import (
    conjugate_gradients,
    extremes,
    head_hessian,
    heads,
    hessian_product,
    lissa,
    moving,
    place,
    weights,
)
from palimpsest.data import Samples, together
from palimpsest.models import Diverged, Network
from palimpsest.ranges import checked
from palimpsest.unlearners import Response, Step, unlearner
from palimpsest.unlearners._gradient_change import told

TASKS = ("classification",)
NO_EPOCHS = True  # the plan counts its passes over the data, not a training's

log = logging.getLogger(__name__)


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    solver: Literal["conjugate_gradients", "lissa"] = "conjugate_gradients",
    hessian: Literal["original", "remaining"] = "original",
    damping: Annotated[float, "[0, inf)"] = 1e-3,
    scale: Annotated[float, "(0, inf)"] | None = None,
    depth: Annotated[int, "[0, inf)"] | None = 250,
    tolerance: Annotated[float, "[0, 1)"] = 1e-4,
    patience: Annotated[int, "[1, inf)"] | None = 20,
    batch_size: Annotated[int, "[1, inf)"] = 1024,
    probes: Annotated[int, "[2, inf)"] = 50,
    factorised: Annotated[int, "[0, inf)"] = 8192,
    weight_decay: Annotated[float, "[0, inf)"] | None = None,
    layers: Literal["all", "head"] = "all",
    bounded: bool = False,
) -> Network | tuple[Network, dict[str, torch.Tensor]]:
    """Return `model` after one Newton step.

    scale: None takes the largest eigenvalue of the Hessian, found in `probes` steps of Lanczos. depth: the most steps
    of the solver; None means the public code's 100 passes. tolerance: the residual, as a share of the vector, at which
    conjugate gradients end. patience, batch_size: LiSSA's (`curvature.lissa`), and how many samples a step of it takes,
    in the order of one permutation drawn with the seed. factorised: up to how many weights the Hessian of the last
    dense layer is factorised. weight_decay: that of the objective; None takes the base recipe's. layers: which weights
    move, all or those of the last dense layer, of an ensemble each member's, with the Hessian of these alone. bounded:
    whether the step says, for changed samples, what Theorem 3.1 of the malicious paper bounds, and by how much
    (`_gradient_change`). Raises `Diverged` when the solver does, and `ValueError` when nothing remains.
    """
    asked = {name: value for name, value in locals().items() if name not in ("model", "forget", "retain", "at")}
    found = response(model, forget, retain, at, **asked)
    answer = found.answer(forget, at.replacement)
    decay = at.recipe.weight_decay if weight_decay is None else weight_decay
    if at.replacement is None and decay:
        answer += found.push(len(forget.labels) * decay * found.start)
    before = deepcopy(model) if bounded and at.replacement is not None else None
    after = place(model, answer)
    if before is None or at.replacement is None:
        return after
    return after, told(before, after, forget, at.replacement, retain, moving(after, layers), found.norm, decay)


@checked
def response(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    solver: Literal["conjugate_gradients", "lissa"] = "conjugate_gradients",
    hessian: Literal["original", "remaining"] = "original",
    damping: Annotated[float, "[0, inf)"] = 1e-3,
    scale: Annotated[float, "(0, inf)"] | None = None,
    depth: Annotated[int, "[0, inf)"] | None = 250,
    tolerance: Annotated[float, "[0, 1)"] = 1e-4,
    patience: Annotated[int, "[1, inf)"] | None = 20,
    batch_size: Annotated[int, "[1, inf)"] = 1024,
    probes: Annotated[int, "[2, inf)"] = 50,
    factorised: Annotated[int, "[0, inf)"] = 8192,
    weight_decay: Annotated[float, "[0, inf)"] | None = None,
    layers: Literal["all", "head"] = "all",
    bounded: bool = False,  # of the step alone
) -> Response:
    """The same as a map, H^-1. With `hessian="remaining"` H is that with `at.replacement`, whatever it is applied to.

    It is linear and symmetric as far as the solver solves: a factorisation to rounding, conjugate gradients to the
    tolerance, LiSSA only with one batch and without patience.
    """
    slope = deepcopy(model).eval()
    decay = at.recipe.weight_decay if weight_decay is None else weight_decay
    left = at.remaining(retain) if hessian == "remaining" else together(retain, forget)
    count, start = len(left.labels), weights(slope)
    if not len(retain.labels):
        raise ValueError("curvature is a mean over samples, and there are none: nothing is retained")
    moves = moving(slope, layers)
    head = layers == "head" and len(heads(slope)) == 1 and int(moves.sum()) <= factorised
    matrix = head_hessian(slope, left) if head and solver != "lissa" else None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(at.seed)).to(left.labels.device)
    plan = order.split(batch_size)
    depth = 100 * len(plan) if depth is None else depth

    def bend(u: torch.Tensor, samples: Samples = left) -> torch.Tensor:
        if matrix is not None:
            bent = torch.zeros_like(u)
            bent[moves] = (matrix @ u[moves].double()).to(u)
        else:
            bent = hessian_product(slope, samples, u) * moves
        return bent + decay * u

    def of_batch(u: torch.Tensor, step: int) -> torch.Tensor:
        index = plan[step % len(plan)]
        return bend(u, Samples(left.images[index], left.labels[index]))

    low = math.nan
    if scale is None or solver != "lissa":
        low, high = extremes(bend, moves.to(start), steps=min(probes, int(moves.sum())), seed=at.seed)
        scale = max(high, 1e-12) if scale is None else scale
        log.info("the Hessian's eigenvalues lie between %.3g and %.3g", low, high)
    damped = damping * scale if solver == "lissa" or matrix is not None else max(damping * scale, -2 * low)

    def solve(vector: torch.Tensor) -> torch.Tensor:
        if solver == "lissa":
            solved = lissa(of_batch, vector, damping=damping, scale=scale, depth=depth, patience=patience)
        else:
            solved = conjugate_gradients(bend, vector, damping=damped, steps=depth, tolerance=tolerance)
        residual = float((vector - bend(solved) - damped * solved).norm() / vector.norm().clamp(min=1e-30))
        tell = log.info if residual <= 2 * tolerance else log.warning  # that of the recursion differs by rounding
        tell("second_order: the residual is %.3g of the vector, and %.3g was asked for", residual, tolerance)
        return solved

    inverse = solve if matrix is None else _factorised(matrix, decay + damped, moves)

    def push(vector: torch.Tensor) -> torch.Tensor:
        # The inverse is linear: dividing by m before keeps the numbers small.
        rows = (vector * moves / count).reshape(-1, len(moves))
        return torch.stack([inverse(row) for row in rows]).view(vector.shape)

    # Lanczos' method finds no smaller eigenvalue than there is, so the inverse is at least so long.
    return Response(start, slope, push, norm=1 / (count * (low + damped)) if low + damped > 0 else math.nan)


def _factorised(matrix: torch.Tensor, damped: float, moves: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return v (P,) to (matrix + damped * I)^-1 v over the weights that move, 0 elsewhere."""
    factor, failed = torch.linalg.cholesky_ex(matrix + damped * torch.eye(len(matrix)).to(matrix))
    if failed or not factor.isfinite().all():
        raise Diverged("the Hessian of the last layer cannot be factorised; more damping mends it")

    def inverse(vector: torch.Tensor) -> torch.Tensor:
        solved = torch.zeros_like(vector)
        solved[moves] = torch.cholesky_solve(vector[moves].double()[:, None], factor)[:, 0].to(vector)
        return solved

    return inverse
