"""l1-sparse: fine-tune on the retained data with an l1 penalty that fades (Jia et al., NeurIPS 2023, section 4).

    min_theta CE(retain) + alpha_t |theta|_1,   alpha_t = alpha (1 - t / (E - E_no_l1)) for t < E - E_no_l1, else 0

with t the epoch from 0 and E all epochs; the norm is taken over all parameters, biases and BatchNorm's scale and
shift included (Unlearn-Sparse and SalUn, FT.py, reached through FT_prune; nothing is pruned despite the name;
docs/methods.md 2.3). Values of their argument defaults: 10 epochs, SGD, lr 0.01, momentum 0.9, weight decay 5e-4, batch
256, E_no_l1 0. alpha was never published; 5e-4 is our choice from the middle of the grid 1e-5 to 1e-3, to be tuned.

BatchNorm: training mode; the running statistics follow the retained data.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.tasks import loss_of
from palimpsest.train import Batch, Recipe, fit
from palimpsest.unlearners import Step, unlearner


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    alpha: Annotated[float, "[0, inf)"] = 5e-4,
    epochs_without_penalty: Annotated[int, "[0, inf)"] = 0,
    training: Recipe = Recipe(epochs=10, lr=0.01, batch_size=256, momentum=0.9, weight_decay=5e-4),
) -> Network:
    """Return `model` trained on for some passes over what remains, the last `epochs_without_penalty` of them plain.

    alpha: weight of the l1 norm in the first epoch. Augmentation and precision are the base recipe's.
    """
    plain = loss_of(at.task)

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        norm = torch.stack([parameter.abs().sum() for parameter in model.parameters()]).sum()
        return plain(model, batch) + alpha * share(batch.epoch, training.epochs - epochs_without_penalty) * norm

    recipe = at.recipe.continued(training)
    return fit(model, at.remaining(retain), recipe, seed=at.seed, loss=loss, checkpoint=at.checkpoint)


def share(epoch: int, penalised: int) -> float:
    """alpha_t / alpha in `epoch` (from 0), of which the first `penalised` have the penalty."""
    return 1 - epoch / penalised if epoch < penalised else 0.0
