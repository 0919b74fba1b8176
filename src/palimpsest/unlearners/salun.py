"""SalUn: random labels, but only the weights move that the forget set's loss depends on most (Fan et al., ICLR 2024).

    m_i = 1 for the share `ratio` of all parameters with the largest |sum_forget d CE / d theta_i|, else 0
    theta_u = m * theta_RL + (1 - m) * theta_0

The mask is that of generate_mask.py of the public code (docs/methods.md 2.3): one ranking over all parameters of the
network, in evaluation mode, with an exact count by rank. There each batch of 256 gives its mean gradient; here every
image weighs the same, which differs where the last batch is smaller. Ties go to the parameter that comes first, since a
dead unit has many exact zeros. Training is that of `random_label`, with gradient * mask. Values: ratio 0.5, 10 epochs,
lr 0.013, as there (SalUn's README).

`variant="corrected"` sets the weights outside the mask back after every step. The public code does so only since
February 2026 (pull request 33). Before, weight decay moved these weights although their gradient was masked, and every
number published until then has that leak; `variant="as_released"` keeps it. The corrected public code clears their
momentum too. SGD treats each weight alone and these are set back anyway, so that changes nothing.

BatchNorm is in training mode, as released; scale and shift are masked like any parameter, the running statistics are
not and follow both sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import nn

from palimpsest.curvature import gradient
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Batch, Hook, Recipe
from palimpsest.unlearners import Step, random_label, unlearner

NEEDS = ("penalty",)  # it trains on the forget set: `adversarial` can add to its loss
TASKS = ("classification",)


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    ratio: Annotated[float, "[0, 1]"] = 0.5,
    variant: Literal["corrected", "as_released"] = "corrected",
    true_label: bool = True,
    order: Literal["as_released", "forget_first", "mixed"] = "as_released",
    training: Recipe = Recipe(epochs=10, lr=0.013, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` trained on as by `random_label`, where only the share `ratio` of its parameters moves.

    ratio: the mask holds round(ratio * parameters). variant: see the module. The rest is `random_label`'s.
    """
    hide, restore = around(model, mask(model, forget, ratio))
    return random_label.train(
        model,
        forget,
        retain,
        at,
        true_label=true_label,
        order=order,
        training=training,
        before_step=hide,
        after_step=restore if variant == "corrected" else None,
    )


def mask(model: nn.Module, forget: Samples, ratio: float) -> list[torch.Tensor]:
    """Return which parameters may move: a boolean tensor for each, with round(ratio * parameters) true entries."""
    return largest(model, gradient(model, forget), ratio)


def largest(model: nn.Module, gradient: torch.Tensor, ratio: float) -> list[torch.Tensor]:
    """Return where |gradient| (P,) is largest: a boolean tensor for each parameter, round(ratio * P) entries true."""
    chosen = torch.zeros_like(gradient, dtype=torch.bool)
    chosen[gradient.abs().argsort(descending=True, stable=True)[: round(ratio * len(gradient))]] = True
    parameters = list(model.parameters())
    parts = chosen.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def around(model: nn.Module, masks: Sequence[torch.Tensor]) -> tuple[Hook, Hook]:
    """Return what to do before and after each step, so that only what `masks` select of the parameters moves.

    Before it the other gradients become 0; after it the other parameters are as they are now.
    """
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def hide(model: nn.Module, batch: Batch) -> None:
        for parameter, kept in zip(model.parameters(), masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(kept)

    @torch.no_grad()
    def restore(model: nn.Module, batch: Batch) -> None:
        for parameter, kept, old in zip(model.parameters(), masks, start, strict=True):
            parameter.copy_(torch.where(kept, parameter, old))

    return hide, restore
