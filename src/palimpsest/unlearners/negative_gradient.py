"""NG: gradient ascent on the forget set alone (Thudi et al., EuroS&P 2022, as Unlearn-Sparse and SalUn have it: GA).

    max_theta CE(forget), from the original weights: SGD on -CE, with the weight decay still pulling towards zero

(SalUn, GA.py; docs/methods.md 2.2). The label-leakage paper calls it NG and cites BaEraser (Liu et al., INFOCOM 2022),
whose ascent is held by training on clean data.

Values: 5 epochs, lr 1e-4 (Unlearn-Sparse's README; its issue 5 searches 1e-5 to 0.1), SGD, momentum 0.9, weight decay
5e-4, batch 256. Ascent has no optimum to stop at: the learning rate decides everything and must be tuned. On LeNet a
rate that leaves one class untouched destroys the network for another, so `stop_at` ends the ascent; that is our
decision. The leakage paper prints forgotten classes of MNIST emptied (0 and 1.8%) at 98% on the others. Ascent on the
forget set alone did not reach that on LeNet at any of ten settings (SGD with and without momentum, Adam, rates 1e-5 to
1e-2): where it may cost the others two points, three forgotten classes still have 61 to 89%. Adam at the base model's
rate costs least.

BatchNorm is in training mode, as released; the running statistics move to those of the forget set.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from palimpsest.data import Samples, pixels
from palimpsest.models import Network, evaluated
from palimpsest.train import Batch, Recipe, fit
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
    stop_at: Annotated[float, "[0, 1]"] | None = None,
    training: Recipe = Recipe(epochs=5, lr=1e-4, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` after some passes of ascent over `forget`; augmentation and precision are the base recipe's.

    `retain` is not used. stop_at: training ends after the step at which this share of the forget set or less, measured
    on up to 500 of its images, is still recognised; the epochs are then an upper limit. Raises `Diverged` when the loss
    is no longer finite.
    """
    watched = torch.randperm(len(forget.labels), generator=torch.Generator().manual_seed(at.seed))[:WATCHED]
    images, labels = (tensor[watched.to(tensor.device)] for tensor in forget)
    targets = at.task.targets(Samples(images, labels))
    if stop_at is not None and targets.ndim != 1:
        raise ValueError("negative_gradient: stop_at is for tasks that have labels")
    images = pixels(images, next(model.parameters()).dtype)

    def forgotten(model: nn.Module, batch: Batch) -> bool:
        with evaluated(model), torch.inference_mode():
            answers = at.task.decided(at.task.answer(model(images)))
        return stop_at is not None and (answers == targets).double().mean().item() <= stop_at

    return fit(
        model,
        forget,
        at.recipe.continued(training),
        seed=at.seed,
        loss=lambda model, batch: -at.loss(model, batch),
        stop=None if stop_at is None else forgotten,
        checkpoint=at.checkpoint,
    )
