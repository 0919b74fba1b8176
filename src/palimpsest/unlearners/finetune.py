"""FT: continue training on the retained data and let the rest fade (Warnecke et al., NDSS 2023).

min_theta CE(retain), from the original weights. Values of the public code that the UMA paper's peers share
(Unlearn-Sparse, SalUn: FT.py, argument defaults): 10 epochs, SGD, lr 0.01, momentum 0.9, weight decay 5e-4,
batch 256; their milestones lie beyond the last epoch, so the rate is constant (methods.md 2.2).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Checkpoint, Recipe, fit


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
    epochs: int = 10,
    lr: float = 0.01,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    optimizer: Literal["sgd", "adam"] = "sgd",
) -> Network:
    """`model` trained on for `epochs` passes over `retain`; augmentation and precision as in the base `recipe`."""
    tuned = deepcopy(model)
    if not len(forget.labels):
        return tuned
    recipe = recipe.continued(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
    )
    return fit(tuned, retain.images, retain.labels, recipe, seed=seed, checkpoint=checkpoint)
