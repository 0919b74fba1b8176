"""Retrain: the base recipe from fresh weights on the retained data alone, the reference that others approximate.

UMA paper, row "retrain" (S000:276); recipe in methods.md 2.1 and 2.2.
"""

from __future__ import annotations

from copy import deepcopy

from palimpsest.data import Samples
from palimpsest.models import Network, fresh
from palimpsest.train import Checkpoint, Recipe, fit


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
) -> Network:
    """A network like `model`, trained with `recipe` from fresh weights on `retain` only; on the model's device."""
    if not len(forget.labels):
        return deepcopy(model)
    return fit(fresh(model, seed), retain.images, retain.labels, recipe, seed=seed, checkpoint=checkpoint)
