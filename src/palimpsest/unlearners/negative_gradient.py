"""NG: gradient ascent on the forget set alone (Thudi et al., EuroS&P 2022, as Unlearn-Sparse and SalUn have it: GA).

max_theta CE(forget), from the original weights: SGD on -CE, with the weight decay still pulling towards zero
(SalUn, GA.py; methods.md 2.2). The label-leakage paper calls it NG and cites a reference that its list lacks.
Values: 5 epochs, lr 1e-4 (Unlearn-Sparse's README; its issue 5 searches 1e-5 to 0.1), SGD, momentum 0.9, weight decay
5e-4, batch 256. Ascent has no optimum to stop at: the learning rate decides everything, and must be tuned. On LeNet a
rate that leaves one class untouched destroys the network for another, so `stop_at` ends it, our decision. The leakage
paper prints forgotten classes of MNIST emptied (0 and 1.8%) at 98% on the others. Ascent on the forget set alone did
not reach that on LeNet at any of ten settings (SGD with and without momentum, Adam, rates 1e-5 to 1e-2): where it may
cost the others two points, three forgotten classes still have 61 to 89%. Adam at the base model's rate costs least.

BatchNorm: training mode, as released; the running statistics move to those of the forget set.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import nn

from palimpsest.data import Samples
from palimpsest.models import Network, predict
from palimpsest.train import Batch, Checkpoint, Penalty, Recipe, fit

WATCHED = 500  # images that `stop_at` looks at after each step


class Enough(Exception):
    """The forget set is forgotten."""


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
    penalty: Penalty | None = None,
    epochs: int = 5,
    lr: float = 1e-4,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    optimizer: Literal["sgd", "adam"] = "sgd",
    stop_at: float | None = None,
) -> Network:
    """`model` after `epochs` passes of ascent over `forget`; augmentation and precision as in the base `recipe`.

    penalty: added to every batch's cross entropy, so that both rise; `adversarial` fills it in. `retain` is not used.
    stop_at: ends after the step at which this share (0 to 1) or less of the forget set, a sample of up to 500, is
    still recognised; `epochs` is then the most. Raises `Diverged` when the loss climbs out of the numbers.
    """
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    watched = torch.randperm(len(forget.labels), generator=torch.Generator().manual_seed(seed))[:WATCHED]
    watched = watched.to(forget.labels.device)

    def stop(training: nn.Module, batch: Batch) -> None:
        answers = predict(training, forget.images[watched]).argmax(1)
        training.train()
        if (answers == forget.labels[watched]).double().mean().item() <= (stop_at or 0.0):
            raise Enough

    recipe = recipe.continued(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
    )
    try:
        return fit(
            tuned,
            forget.images,
            forget.labels,
            recipe,
            seed=seed,
            penalty=penalty,
            before_step=turn,
            after_step=None if stop_at is None else stop,
            checkpoint=checkpoint,
        )
    except Enough:  # `fit` trains in place
        return tuned.eval()


def turn(model: nn.Module, batch: Batch) -> None:
    """Negate the gradients: the optimiser, which adds weight decay to them afterwards, sees those of -CE."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()
