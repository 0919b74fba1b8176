"""Second order: a Newton step to the minimum without samples, or with others instead (Warnecke et al., NDSS 2023).

    theta_u = theta - H^-1 (sum_replacement dl(z~) - sum_forget dl(z))

(malicious paper, Section 2); where data is removed there is no first sum. H^-1 is computed by LiSSA (the paper's
Section 3.3 says: by Hessian-vector products). H is the Hessian of the summed loss of what remains (`retain`, and
`replacement`), so the step is the mean Hessian's inverse times the sum, over their number m. l is the training's
objective: with `weight_decay` w each sample carries w/2 |theta|^2. This adds w to the Hessian and, where data is
removed, w * theta for each removed sample to the gradient. On a convex objective at its minimum the step is then
Newton's towards exact retraining; 0 leaves the loss alone, as the public code does.

Values: the paper gives none. The public code (core.py, configs/unlearn.json; docs/methods.md 2.5) has batches of 1024,
damping 1e-4, patience 20, one repetition, and 100 ceil(m / 1024) steps. Its scale 2e5 belongs to a loss summed over a
batch, which is 2e5 / 1024 = 200 for the mean taken here. There the Hessian of one batch stands for that of all m, which
lengthens the step m / 1024 times; here it does not. The result is (H + damping * scale * I)^-1, with 0.02 of damping:
tune both together. The public code moves the last six tensors only, its dense head: `last_tensors=6` does that.

BatchNorm is in evaluation mode: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch

from palimpsest.curvature import hessian_product, lissa, move, request_gradient, tail, weights
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
    damping: Annotated[float, "[0, inf)"] = 1e-4,
    scale: Annotated[float, "(0, inf)"] = 200.0,
    depth: Annotated[int, "[0, inf)"] | None = None,
    patience: Annotated[int, "[1, inf)"] | None = 20,
    batch_size: Annotated[int, "[1, inf)"] = 1024,
    weight_decay: Annotated[float, "[0, inf)"] | None = None,
    last_tensors: Annotated[int, "[1, inf)"] | None = None,
) -> Network:
    """Return `model` after one Newton step.

    damping, scale, depth, patience: LiSSA's (`curvature.lissa`); depth None means the public code's 100 passes.
    batch_size: how many remaining samples a step of LiSSA takes, in the order of one permutation drawn with the seed.
    weight_decay: that of the objective; None takes the base recipe's. last_tensors: how many parameter tensors move,
    counted from the output, with the Hessian of these alone; None moves all. Raises `Diverged` when LiSSA does, and
    `ValueError` when nothing remains.
    """
    decay = at.recipe.weight_decay if weight_decay is None else weight_decay
    left = at.remaining(retain)
    count = len(left.labels)
    fixed = tail(model, last_tensors)
    taken = request_gradient(model, forget, at.replacement)
    if at.replacement is None:
        taken += len(forget.labels) * decay * weights(model)
    taken[:fixed] = 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(at.seed)).to(left.labels.device)
    plan = order.split(batch_size)

    def product(u: torch.Tensor, step: int) -> torch.Tensor:
        index = plan[step % len(plan)]
        bent = hessian_product(model, Samples(left.images[index], left.labels[index]), u) + decay * u
        bent[:fixed] = 0
        return bent

    depth = 100 * math.ceil(count / batch_size) if depth is None else depth
    # LiSSA is linear in its vector: dividing by m before keeps the numbers small.
    move(model, lissa(product, taken / count, damping=damping, scale=scale, depth=depth, patience=patience))
    return model
