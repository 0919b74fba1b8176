"""SalUn: random labels, but only the weights move that the forget set's loss depends on most (Fan et al., ICLR 2024).

    m_i = 1 for the share `ratio` of all parameters with the largest |sum_forget d CE / d theta_i|, else 0
    theta_u = m * theta_RL + (1 - m) * theta_0

Mask: generate_mask.py of the public code, methods.md 2.3: one ranking over all parameters of the network, evaluation
mode, exact count by rank. There each batch of 256 gives its mean gradient; here every image weighs the same, which
differs where the last batch is smaller. Ties go to the parameter that comes first: a dead unit has many exact zeros.
Training: `random_label`, with gradient * mask. Values: ratio 0.5, 10 epochs, lr 0.013, as there (SalUn's README).

`variant="corrected"` sets the weights outside the mask back after every step. The public code did so only from
February 2026 on (pull request 33): before, weight decay moved them, although their gradient was masked, and every
number published until then has that leak; `variant="as_released"` keeps it. The corrected public code clears their
momentum too; SGD treats each weight alone and these are set back anyway, so that changes nothing.

BatchNorm: training mode, as released; scale and shift are masked like any parameter, the running statistics are not
and follow both sets.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import nn

from palimpsest.curvature import gradient
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Batch, Checkpoint, Penalty, Recipe
from palimpsest.unlearners import random_label


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
    penalty: Penalty | None = None,
    ratio: float = 0.5,
    variant: Literal["corrected", "as_released"] = "corrected",
    epochs: int = 10,
    lr: float = 0.013,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    true_label: bool = True,
    order: Literal["as_released", "forget_first", "mixed"] = "as_released",
) -> Network:
    """`model` trained on as by `random_label`, the share `ratio` of its parameters only.

    ratio: in [0, 1]; the mask holds round(ratio * parameters). variant: see above. The rest is `random_label`'s.
    Raises `ValueError` for another ratio or variant.
    """
    if variant not in ("corrected", "as_released"):
        raise ValueError(f"salun: variant cannot be {variant!r}; it takes corrected, as_released")
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    masks = mask(tuned, forget, ratio)
    start = [parameter.detach().clone() for parameter in tuned.parameters()]

    def hide(model: nn.Module, batch: Batch) -> None:
        for parameter, kept in zip(model.parameters(), masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(kept)

    @torch.no_grad()
    def restore(model: nn.Module, batch: Batch) -> None:
        for parameter, kept, old in zip(model.parameters(), masks, start, strict=True):
            parameter.copy_(torch.where(kept, parameter, old))

    return random_label.train(
        tuned,
        forget,
        retain,
        seed=seed,
        recipe=recipe,
        checkpoint=checkpoint,
        penalty=penalty,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        true_label=true_label,
        order=order,
        before_step=hide,
        after_step=restore if variant == "corrected" else None,
    )


def mask(model: nn.Module, forget: Samples, ratio: float) -> list[torch.Tensor]:
    """Which parameters may move: a boolean tensor for each, round(ratio * parameters) of all true."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"salun: ratio is a share of the parameters, from 0 to 1, not {ratio}")
    saliency = gradient(model, forget).abs()
    chosen = torch.zeros_like(saliency, dtype=torch.bool)
    chosen[saliency.argsort(descending=True, stable=True)[: round(ratio * len(saliency))]] = True
    parameters = list(model.parameters())
    parts = chosen.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
