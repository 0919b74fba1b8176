"""Retrain: the base recipe from fresh weights on the retained data alone, the reference that others approximate.

UMA paper, row "retrain" of Tables 1 and 2; recipe in docs/methods.md 2.1 and 2.2.
"""

from __future__ import annotations

from palimpsest.data import Samples
from palimpsest.models import Network, fresh
from palimpsest.train import fit
from palimpsest.unlearners import Step, unlearner


@unlearner(replaces=True)
def unlearn(model: Network, forget: Samples, retain: Samples, at: Step) -> Network:
    """Return a network like `model`, trained with the base recipe from fresh weights on what remains; on its device."""
    return fit(
        fresh(model, at.seed),
        at.remaining(retain),
        at.recipe,
        seed=at.seed,
        task=at.task,
        checkpoint=at.checkpoint,
    )
