"""Influence unlearning: a step along H^-1 times the forget set's gradient (Koh and Liang, ICML 2017; healing paper).

    theta <- theta + 1/n H^-1 sum_forget dl,   n = all training samples

(healing paper, Section 5.1). H^-1 is computed by LiSSA, "dividing each deletion set into minibatches and applying
sequential unlearning updates" (also Section 5.1). The paper does not say how. We take the mini-batches of
`batch_forget` in turn (docs/methods.md 2.4): at the weights that the last one left, v is the mini-batch's mean
gradient, each step of LiSSA takes the Hessian of `batch_retain` retained samples drawn anew, and theta moves by (share
of n) * u, shortened to `max_norm`. The paper's Table 3 has a column "Max norm" and does not say of what. If u were
shortened before it is multiplied by the share, the weights would hardly move, while the paper's accuracies do fall.
They hardly move without it either: the scale of a step is not printed. With `reduction: sum` theta moves by what the
mini-batch's summed gradient gives, without 1/n: n times as far, before it is shortened.

Values: Table 3's for MNIST, 5% removed (batches 1024 and 2048, damping 1e-4, max norm 1, depth 10, scale 10). For 25
images of a class Table 6 has damping 1e-6 and depth / scale 5000 / 1000 on MNIST, 1000 / 10000 on CIFAR-10 and 100 /
100 on AFHQ. Ten steps sum little of the series: where H is small against scale, u is about (depth + 1) / scale * v, a
gradient step.

This is not the IU of the UMA paper, which is `influence_woodfisher`.

BatchNorm is in evaluation mode: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from palimpsest.curvature import hessian_product, lissa, move, request_gradient
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.unlearners import Step, unlearner

TASKS = ("classification",)
NO_EPOCHS = True  # the plan counts its passes over the data, not a training's


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    batch_forget: Annotated[int, "[1, inf)"] = 1024,
    batch_retain: Annotated[int, "[1, inf)"] = 2048,
    damping: Annotated[float, "[0, inf)"] = 1e-4,
    scale: Annotated[float, "(0, inf)"] = 10.0,
    depth: Annotated[int, "[0, inf)"] = 10,
    patience: Annotated[int, "[1, inf)"] | None = None,
    max_norm: Annotated[float, "(0, inf)"] | None = 1.0,
    strength: Annotated[float, "[0, inf)"] = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Network:
    """Return `model` after one step for each mini-batch of `forget`, in data-set order, less that of their
    replacements.

    damping, scale, depth, patience: LiSSA's (`curvature.lissa`). max_norm: the greatest Euclidean length of one step;
    None allows any. strength: a step is multiplied by this first; it is 1 in the formula. reduction: whether a step is
    that of the formula or of the summed gradient, without 1/n. Raises `Diverged` when LiSSA does, and `ValueError` when
    nothing is retained.
    """
    divisor = len(forget.labels) + len(retain.labels) if reduction == "mean" else 1
    generator = torch.Generator().manual_seed(at.seed)

    def product(u: torch.Tensor, step: int) -> torch.Tensor:
        draw = torch.randperm(len(retain.labels), generator=generator)[:batch_retain].to(retain.labels.device)
        return hessian_product(model, Samples(retain.images[draw], retain.labels[draw]), u)

    for index in torch.arange(len(forget.labels), device=forget.labels.device).split(batch_forget):
        batch = Samples(forget.images[index], forget.labels[index])
        put = at.replacement
        instead = None if put is None else Samples(put.images[index], put.labels[index])
        v = request_gradient(model.eval(), batch, instead) / len(index)
        u = lissa(product, v, damping=damping, scale=scale, depth=depth, patience=patience)
        step = strength * len(index) / divisor * u
        if max_norm is not None:
            step *= min(1.0, max_norm / max(float(step.norm()), 1e-30))
        move(model, step)
    return model
