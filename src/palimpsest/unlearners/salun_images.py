"""SalUn on a network that reconstructs images: a forgotten image becomes another one, but only the weights move that
the forget set's loss depends on most (Fan et al., ICLR 2024, Section 4, "image generation").

    min_theta  L(f(x_f), y) + retain_alpha L(f(x_r), x_r),   theta moves where m is 1,

L the task's loss, a mean over all numbers. It is the form of the released code for diffusion models (DDPM/runners,
`saliency_unlearn`; docs/methods.md 2.6), whose y is the model's own answer to another class. An autoencoder takes no
class, so y is ours: another image, drawn from the retained ones (`target="other"`), or I2I's noise (`target="noise"`),
either of them anew for every batch. m selects the share `ratio` of all parameters, of encoder and decoder, with the
largest |sum_forget d L(f(x), x) / d theta|, in evaluation mode.

The released weight of the retained term is 1e-3 (README and issue 19), but there that term is a sum over the numbers of
an image, and the other a mean (functions/losses.py). With 3 x 32 x 32 numbers the weight of a mean is 3.07, and so
`retain_alpha` is 3. On a small autoencoder of digits that forgets the ones, 500 steps multiply the error of forgotten
test images by 1.8 and that of retained ones by 1.05; with 1e-3 it is 2.6 and 1.4, with 10 it is 1.5 and 1.01.

Values as released: Adam at 1e-4 without weight decay, 128 images of either set a step, clipped at 1, ratio 0.5, and
1,000 steps, which are 25 passes over 5,000 forgotten images. Gradients are clipped after the mask; there, before it.
What the mask leaves out is set back after every step, so that no weight decay moves it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import nn

from palimpsest.curvature import batches, flat
from palimpsest.data import Samples, pixels, together
from palimpsest.models import Network, evaluated
from palimpsest.tasks import Task, loss_of
from palimpsest.train import Batch, Recipe, fit
from palimpsest.unlearners import Step, i2i, salun, unlearner

TASKS = ("reconstruction",)


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    ratio: Annotated[float, "[0, 1]"] = 0.5,
    target: Literal["other", "noise"] = "other",
    retain_alpha: Annotated[float, "[0, inf)"] = 3.0,
    training: Recipe = Recipe(epochs=25, batch_size=128, lr=1e-4, optimizer="adam", weight_decay=0.0, clip=1.0),
) -> Network:
    """Return `model` trained on, where only the share `ratio` of its parameters moves.

    target: what a forgotten image shall become; raises `ValueError` for `other` where nothing is retained. batch_size:
    images of each set in a step; an epoch passes once over the forget set.
    """
    count, others = len(forget.labels), len(retain.labels)
    if target == "other" and not others:
        raise ValueError(
            "salun_images: target other needs a retained image, and there is none; target noise needs none"
        )
    hide, restore = salun.around(model, salun.largest(model, gradient(model, forget, at.task), ratio))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        forgotten, outputs = batch.index < count, model(batch.images)
        shown, kept = batch.images[forgotten], batch.images[~forgotten]
        if target == "noise":
            wanted = i2i.noise(batch.images)[forgotten]
        else:
            drawn = torch.randint(others, (len(shown),)).to(retain.images.device)
            wanted = pixels(retain.images[drawn], shown.dtype)
        loss = at.task.loss(outputs[forgotten], wanted)
        return loss + retain_alpha * at.task.loss(outputs[~forgotten], kept) if len(kept) else loss

    def pairs(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        first = torch.randperm(count, generator=generator).split(training.batch_size)
        second = (count + i2i.drawn(count, others, generator)).split(training.batch_size)
        return [torch.cat(pair) for pair in zip(first, second, strict=True)] if others else first

    return fit(
        model,
        together(forget, retain),
        at.recipe.continued(training),
        seed=at.seed,
        loss=loss,
        batches=pairs,
        before_step=hide,
        after_step=restore,
        checkpoint=at.checkpoint,
    )


def gradient(model: Network, samples: Samples, task: Task) -> torch.Tensor:
    """Return the sum over the samples of the gradients (P,) of the task's loss, in evaluation mode."""
    parameters = list(model.parameters())
    total = torch.zeros_like(flat(parameters).detach())
    with evaluated(model):
        for part in batches(samples, 128):
            shown = Samples(pixels(part.images, total.dtype), part.labels)
            value = loss_of(task)(model, shown) * len(shown.labels)
            total += flat(torch.autograd.grad(value, parameters, materialize_grads=True))
    return total
