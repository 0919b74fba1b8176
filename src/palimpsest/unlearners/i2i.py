"""I2I: the encoder learns to see noise where a forgotten image is shown (Li et al., ICLR 2024, "Machine Unlearning for
Image-to-Image Generative Models").

With E the encoder, E_0 the one before, which stays, and B the images of a batch, D of forgotten and R of retained ones:

    min_E 2/|B| (retain_alpha sum_{x in R} |E(x) - E_0(x)|^2 + forget_alpha sum_{x in D} |E(x) - E_0(n)|^2)

as the released code computes it (i2i_mage, engine_unlearn.py:12-67; docs/methods.md 2.6). |.|^2 is the mean over an
image's features; the 2 is what the code's factors (1 + label) and (1 - label) come to. n is noise of the mean and the
deviation that all numbers of the batch have, clamp(N(0, 1) * deviation + mean, 0, 1), drawn anew for every batch. What
is hidden of an image is drawn anew as well, the same for E and E_0. The decoder is left as it is.

Both sets count alike there: the retained images are cut, or repeated, to as many as are forgotten, and shuffled with
them (util/datasets.py). Here an epoch has each forgotten image once and as many retained ones, drawn anew for each
epoch, so that all of them are seen in the end. A last batch that is not full is trained on; there it is dropped.

Values: retain_alpha 1 (the code's default), forget_alpha 0.2 (README), AdamW with betas 0.9 and 0.95 and weight decay
0.05, rate 1e-4 times the effective batch / 256, cosine, 5 epochs of warm-up, gradients clipped at 3, 32 images on each
of 4 cards. 6 epochs are the default of its baselines and of the argument `early_epochs`, which nothing reads; the
method's own `epochs` is 50. An epoch has 12,000 forgotten images and so 188 steps there: a smaller set wants more of
them. The code decays no bias and no scale of a normalisation; here all weights of the encoder decay. Its crops are
random in size; augmentation here is that of the base model.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated

import torch
from torch import nn

from palimpsest.data import Samples, together
from palimpsest.models import Network
from palimpsest.tasks import at_least_float32
from palimpsest.train import Batch, Batches, Recipe, fit
from palimpsest.unlearners import Step, unlearner

TASKS = ("reconstruction",)


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    retain_alpha: Annotated[float, "[0, inf)"] = 1.0,
    forget_alpha: Annotated[float, "[0, inf)"] = 0.2,
    training: Recipe = Recipe(
        epochs=6,
        batch_size=128,
        lr=5e-5,
        optimizer="adamw",
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip=3.0,
        schedule="cosine",
        warmup_epochs=5,
    ),
) -> Network:
    """Return `model` with an encoder that is trained on.

    retain_alpha, forget_alpha: the weights of the two sums. batch_size counts the images of both sets. Raises
    `ValueError` for a network that hides nothing, since it has no encoder.
    """
    if not model.hides:
        raise ValueError("i2i: this network has no encoder; the method is for one that hides a part of every image")
    teacher, count = deepcopy(model).eval(), len(forget.labels)

    def loss(_: nn.Module, batch: Batch) -> torch.Tensor:
        images, forgotten = batch.images, batch.index < count
        # Drawn on the CPU, where a seed gives the same numbers for every device.
        keys = torch.randint(2**62, (len(images),)).to(images.device)
        shown = torch.where(forgotten[:, None, None, None], noise(images), images)
        with torch.no_grad():
            wanted = at_least_float32(teacher.encoded(shown, keys))
        apart = (at_least_float32(model.encoded(images, keys)) - wanted).square().flatten(1).mean(1)
        return 2 * torch.where(forgotten, forget_alpha * apart, retain_alpha * apart).mean()

    return fit(
        model,
        together(forget, retain),
        at.recipe.continued(training),
        seed=at.seed,
        loss=loss,
        batches=shared(count, len(retain.labels), training.batch_size),
        checkpoint=at.checkpoint,
    )


def noise(images: torch.Tensor) -> torch.Tensor:
    """Noise (N, ...) in [0, 1] that has the mean and the deviation of all numbers of `images` (N, ...), but for what is
    clamped.
    """
    drawn = torch.randn(images.shape, dtype=images.dtype).to(images.device)
    return (drawn * images.std() + images.mean()).clamp(0, 1)


def shared(forgotten: int, retained: int, size: int) -> Batches:
    """Return batches of both sets together, of which the forgotten images have the indices from 0 on: each of them once
    an epoch, and as many retained ones, in one shuffled order.
    """

    def batches(epoch: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        both = torch.cat([torch.arange(forgotten), forgotten + drawn(forgotten, retained, generator)])
        return both[torch.randperm(len(both), generator=generator)].split(size)

    return batches


def drawn(count: int, of: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` of 0 to `of` - 1, each as often as any other, give or take one; none where there are none."""
    passes = -(-count // of) if of else 0
    orders = [torch.randperm(of, generator=generator) for _ in range(passes)]
    return torch.cat([torch.arange(0), *orders])[:count]
