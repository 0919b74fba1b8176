"""RL: train on the forget set with random labels and on the retain set with its own (Golatkar et al., CVPR 2020).

min_theta CE(forget, random labels) + CE(retain), from the original weights, as SalUn's public code does it
(RL.py:51-178, methods.md 2.2): on data sets of ten classes each epoch first passes over the forget set, labels drawn
anew for every batch, then over the retain set; on larger ones labels are drawn once an epoch and both sets are
shuffled together. There the true label can be drawn too (decision U-12); `true_label=False` excludes it, as the
label-leakage paper says ("randomly generated incorrect labels", S001:186).
Values: 10 epochs, SGD, momentum 0.9, weight decay 5e-4, batch 256, lr 0.013 (SalUn's README, CIFAR-10, 10%).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Checkpoint, Hook, Penalty, Recipe, fit


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
    penalty: Penalty | None = None,
    epochs: int = 10,
    lr: float = 0.013,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    optimizer: Literal["sgd", "adam"] = "sgd",
    true_label: bool = True,
    order: Literal["as_released", "forget_first", "mixed"] = "as_released",
) -> Network:
    """`model` trained on for `epochs` passes over both sets, forget labels drawn uniformly from all classes.

    true_label: whether the true label may be drawn. order: `forget_first` or `mixed`; `as_released` takes the first
    for ten classes or fewer, else the second. penalty: added to every batch's loss, in which the forget images have the
    indices from 0 on; `adversarial` fills it in. optimizer: `adam` is the leakage paper's, whose base models have it.
    """
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    return train(
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
        optimizer=optimizer,
        true_label=true_label,
        order=order,
    )


def train(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    penalty: Penalty | None,
    epochs: int,
    lr: float,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    optimizer: str = "sgd",
    true_label: bool,
    order: Literal["as_released", "forget_first", "mixed"],
    before_step: Hook | None = None,
    after_step: Hook | None = None,
) -> Network:
    """What `unlearn` does, on `model` in place; SalUn does the same with a mask around every step."""
    classes, count = model.spec.classes, len(forget.labels)
    forget_first = order == "forget_first" or (order == "as_released" and classes <= 10)

    def relabel(epoch: int, generator: torch.Generator, labels: torch.Tensor) -> torch.Tensor:
        # Each forget image occurs once an epoch: one draw an image is one draw a batch.
        drawn = random_labels(forget.labels, classes, generator, true_label=true_label)
        return torch.cat([drawn, labels[count:]])

    def batches(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        total = count + len(retain.labels)
        if not forget_first:
            return torch.randperm(total, generator=generator).split(batch_size)
        first = torch.randperm(count, generator=generator).split(batch_size)
        second = (count + torch.randperm(total - count, generator=generator)).split(batch_size)
        return [*first, *second]

    recipe = recipe.continued(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
    )
    return fit(
        model,
        torch.cat([forget.images, retain.images]),
        torch.cat([forget.labels, retain.labels]),
        recipe,
        seed=seed,
        batches=batches,
        relabel=relabel,
        penalty=penalty,
        before_step=before_step,
        after_step=after_step,
        checkpoint=checkpoint,
    )


def random_labels(labels: torch.Tensor, classes: int, generator: torch.Generator, *, true_label: bool) -> torch.Tensor:
    """Uniform labels for `labels` (N,) from 0..classes-1, without the true one unless `true_label`; same device."""
    if true_label:
        return torch.randint(classes, labels.shape, generator=generator).to(labels.device)
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shift) % classes
