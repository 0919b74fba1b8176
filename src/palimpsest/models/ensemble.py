"""An ensemble that votes: several networks of one architecture, usable wherever a network is.

SISA (Bourtoule et al., S&P 2021) answers with the class that most members name (public code, aggregation.py:65: argmax
of the summed one-hot votes). The healing paper (Section 5.1) and the malicious paper (Section 5.2) use it. Counts of
votes are no logits: their logarithm is infinite, they have members + 1 values and no gradient. So the ensemble's output
is

    log p,  p = mean_k softmax(z_k),   with the entries of the vote's winner and of p's largest exchanged

where those two are different classes. The argmax is then the vote, with ties broken by p. The softmax is p itself, or
the same numbers in another order; UMA's KL and the membership attack's confidence are taken of it. And nothing is
infinite. Public code breaks ties by the smallest class number instead.

Gradients are those of log p, straight through the exchange, since the vote has none. In log p a member counts by its
share of the class's probability, so a member that is sure of other classes pulls little; an attacker who knows the
members could weigh them otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from palimpsest.models import ModelError
from palimpsest.ranges import checked

# How far, in logits, an exchanged winner leads: more than float32 rounds away in a softmax, less than anyone measures.
LEAD = 1e-5


@checked
def build(
    classes: int,
    channels: int,
    *,
    method: str = "small_cnn",
    members: Annotated[int, "[1, inf)"] = 5,
    keywords: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Images (N, channels, H, W) to logits (N, classes), the log of a probability.

    method: the file of this package that builds each member, with its `keywords`. members: how many, at least one.
    Raises `ModelError` where there is no such file.
    """
    if not method.isidentifier() or not Path(__file__).with_name(f"{method}.py").is_file():
        raise ModelError(f"there is no network file models/{method}.py for an ensemble's members")
    build_one = import_module(f"palimpsest.models.{method}").build
    return Ensemble([build_one(classes, channels, **(keywords or {})) for _ in range(members)])


class Ensemble(nn.Module):
    """The vote of `members`, each of which maps images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([member(images) for member in self.members])
        # Autocast hands over bfloat16, in which a mean of probabilities would lose the order of close classes.
        each = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(2)
        mean = each.logsumexp(0) - math.log(len(self.members))
        # Comparing instead of one_hot: it also runs under vmap, which per-sample gradients need.
        named = each.argmax(2, keepdim=True) == torch.arange(each.shape[2], device=each.device)
        # A probability breaks ties only: it is below 1 wherever a vote went to another class.
        winner = (named.sum(0) + mean.exp()).argmax(1, keepdim=True)
        top = mean.argmax(1, keepdim=True)
        first = mean.gather(1, top) + LEAD * (winner != top)
        voted = mean.scatter(1, top, mean.gather(1, winner)).scatter(1, winner, first)
        return mean + (voted - mean).detach()
