"""FT: continue training on the retained data and let the rest fade (Warnecke et al., NDSS 2023).

    min_theta CE(retain), from the original weights

The values are those of the public code that the UMA paper's peers share (Unlearn-Sparse, SalUn: FT.py, argument
defaults): 10 epochs, SGD, lr 0.01, momentum 0.9, weight decay 5e-4, batch 256. Its milestones lie beyond the last
epoch, so the rate is constant (docs/methods.md 2.2).
"""

from __future__ import annotations

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Step, unlearner


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    training: Recipe = Recipe(epochs=10, lr=0.01, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` trained on for some passes over what remains; augmentation and precision are the base recipe's."""
    recipe = at.recipe.continued(training)
    return fit(model, at.remaining(retain), recipe, seed=at.seed, task=at.task, checkpoint=at.checkpoint)
