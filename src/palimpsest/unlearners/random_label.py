"""RL: train on the forget set with random labels and on the retain set with its own (Golatkar et al., CVPR 2020).

    min_theta CE(forget, random labels) + CE(retain), from the original weights

as SalUn's public code does it (RL.py:51-178; docs/methods.md 2.2). On data sets of ten classes each epoch first passes
over the forget set, with labels drawn anew for every batch, and then over the retain set. On larger ones labels are
drawn once an epoch and both sets are shuffled together. The true label can be drawn too (docs/methods.md#u-12);
`true_label=False` excludes it, as the label-leakage paper says ("randomly generated incorrect labels", Section V-C).
Values: 10 epochs, SGD, momentum 0.9, weight decay 5e-4, batch 256, lr 0.013 (SalUn's README, CIFAR-10, 10%).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Hook, Recipe, fit
from palimpsest.unlearners import Step, unlearner

NEEDS = ("penalty",)  # it trains on the forget set: `adversarial` can add to its loss
TASKS = ("classification",)

Order = Literal["as_released", "forget_first", "mixed"]


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    true_label: bool = True,
    order: Literal["as_released", "forget_first", "mixed"] = "as_released",
    training: Recipe = Recipe(epochs=10, lr=0.013, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` trained on for some passes over both sets, forget labels drawn uniformly from all classes.

    true_label: whether the true label may be drawn. order: `forget_first` or `mixed`; `as_released` takes the first for
    ten classes or fewer, else the second. The optimiser `adam` is the leakage paper's, whose base models have it. In a
    batch the forget images have the indices from 0 on, by which `adversarial` recognises them.
    """
    return train(model, forget, retain, at, true_label=true_label, order=order, training=training)


def train(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    true_label: bool,
    order: Order,
    training: Recipe,
    before_step: Hook | None = None,
    after_step: Hook | None = None,
) -> Network:
    """What `unlearn` does; SalUn does the same with a mask around every step."""
    classes, count = model.spec.classes, len(forget.labels)
    forget_first = order == "forget_first" or (order == "as_released" and classes <= 10)
    size = training.batch_size

    def relabel(epoch: int, generator: torch.Generator, labels: torch.Tensor) -> torch.Tensor:
        # Each forget image occurs once an epoch: one draw an image is one draw a batch.
        drawn = random_labels(forget.labels, classes, generator, true_label=true_label)
        return torch.cat([drawn, labels[count:]])

    def batches(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        total = count + len(retain.labels)
        if not forget_first:
            return torch.randperm(total, generator=generator).split(size)
        first = torch.randperm(count, generator=generator).split(size)
        second = (count + torch.randperm(total - count, generator=generator)).split(size)
        return [*first, *second]

    return fit(
        model,
        Samples(*map(torch.cat, zip(forget, retain, strict=True))),
        at.recipe.continued(training),
        seed=at.seed,
        loss=at.loss,
        batches=batches,
        relabel=relabel,
        before_step=before_step,
        after_step=after_step,
        checkpoint=at.checkpoint,
    )


def random_labels(labels: torch.Tensor, classes: int, generator: torch.Generator, *, true_label: bool) -> torch.Tensor:
    """Uniform labels for `labels` (N,) from 0..classes-1, without the true one unless `true_label`; same device."""
    if true_label:
        return torch.randint(classes, labels.shape, generator=generator).to(labels.device)
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shift) % classes
