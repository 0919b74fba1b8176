"""NG: gradient ascent on the forget set, alone or held by descent on retained images.

    alone   max_theta CE(forget)
    held    min_theta CE(retain) - weight * mean over forgotten images of min(CE, cap)

both from the original weights (docs/methods.md 2.2). The cap is each image's own [R]: with one on the mean, a class
that is lost early pays for another that is not. Alone it is SalUn's and Unlearn-Sparse's GA (GA.py; Thudi et al.,
EuroS&P 2022). The label-leakage paper calls its row NG and cites BaEraser (Liu et al., INFOCOM 2022), whose ascent is
held by training on clean data and a penalty; its loss could not be read, so the form here is ours.

Values alone: 5 epochs, lr 1e-4 (Unlearn-Sparse's README; its issue 5 searches 1e-5 to 0.1), SGD, momentum 0.9, weight
decay 5e-4, batch 256. Ascent has no optimum to stop at: the learning rate decides everything and must be tuned. On
LeNet a rate that leaves one class untouched destroys the network for another, so `stop_at` can end the ascent; that is
our decision. Held, it needs no stop: `cap` ends the ascent where the forgotten images are lost, and the descent keeps
the others. With `layers: last` only the last layer's weights move.

BatchNorm is in training mode, as released. Alone its running statistics move to those of the forget set; held, to those
of both in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import nn, vmap

from palimpsest.data import Samples, pixels
from palimpsest.models import Network, evaluated
from palimpsest.tasks import loss_of
from palimpsest.train import Batch, Recipe, fit, shuffled
from palimpsest.unlearners import Step, unlearner

NEEDS = ("penalty",)  # it trains on the forget set: `adversarial` can add to its loss
WATCHED = 500  # images that `stop_at` looks at after each step


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    held: bool = False,
    weight: Annotated[float, "(0, inf)"] = 0.2,
    cap: Annotated[float, "(0, inf)"] = 5.0,
    layers: Literal["all", "last"] = "all",
    stop_at: Annotated[float, "[0, 1]"] | None = None,
    training: Recipe = Recipe(epochs=5, lr=1e-4, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` after some passes of ascent over `forget`; augmentation and precision are the base recipe's.

    held: whether each step also descends on a batch of `retain`, which is not used otherwise; an epoch then has as many
    steps as one over both sets. weight, cap: of the ascent that is held; the cap is in nats. layers: which weights
    move. stop_at: training ends after the step at which this share of the forget set or less, measured on up to 500 of
    its images, is still recognised; the epochs are then an upper limit. Raises `Diverged` when the loss is no longer
    finite.
    """
    watched = torch.randperm(len(forget.labels), generator=torch.Generator().manual_seed(at.seed))[:WATCHED]
    images, labels = (tensor[watched.to(tensor.device)] for tensor in forget)
    targets = at.task.targets(Samples(images, labels))
    if stop_at is not None and targets.ndim != 1:
        raise ValueError("negative_gradient: stop_at is for tasks that have labels")
    images = pixels(images, next(model.parameters()).dtype)
    count, kept = len(forget.labels), len(retain.labels)
    if held and not kept:
        raise ValueError("negative_gradient: nothing is retained that could hold the ascent")

    def forgotten(model: nn.Module, batch: Batch) -> bool:
        with evaluated(model), torch.inference_mode():
            answers = at.task.decided(at.task.answer(model(images)))
        return stop_at is not None and (answers == targets).double().mean().item() <= stop_at

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        if not held:
            return -at.loss(model, batch)
        gone = batch.index < count
        ours, theirs = (
            replace(batch, index=batch.index[part], images=batch.images[part], labels=batch.labels[part])
            for part in (~gone, gone)
        )
        one = vmap(lambda outputs, target: at.task.loss(outputs[None], target[None]))
        each = one(model(theirs.images), at.task.targets(theirs))
        penalty = at.penalty(model, theirs) if at.penalty else 0.0
        return loss_of(at.task)(model, ours) - weight * (each.clamp(max=cap).mean() + penalty)

    def batches(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        def passes(count: int, wanted: int) -> list[torch.Tensor]:
            found: list[torch.Tensor] = []
            while len(found) < wanted:
                found += shuffled(count, training.batch_size)(epoch, generator)
            return found[:wanted]

        steps = len(shuffled(count + kept, training.batch_size)(epoch, generator))
        both = zip(passes(count, steps), passes(kept, steps), strict=True)
        return [torch.cat([gone, count + stays]) for gone, stays in both]

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:] if layers == "last" else [model]
    if not last:
        raise ValueError("negative_gradient: this network has no dense layer, so `layers: last` moves nothing")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in last:
        module.requires_grad_(True)
    made = fit(
        model,
        Samples(*map(torch.cat, zip(forget, retain, strict=True))) if held else forget,
        at.recipe.continued(training),
        seed=at.seed,
        loss=loss,
        batches=batches if held else None,
        stop=None if stop_at is None else forgotten,
        checkpoint=at.checkpoint,
    )
    return made.requires_grad_(True)
