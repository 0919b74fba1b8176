"""The malicious paper's defense: unlearn the samples whose gradients lie alone (its Section 4, eq. 3 to 5).

It is a step of its own after a step that put changed samples in the place of others, with the request `same`. Of each
class of the training set as it then stands, k samples are taken as medoids: those with the least sum of Euclidean
distances between the gradients dl(z; theta_u) of all samples of the class and their nearest medoid. A crafted sample
must mimic the gradient of another class, so it should have no neighbour in its own. "The isolated medoids" are then
unlearned by an existing method, the backbone, which removes them; SISA retrains the shards that hold them.

The paper gives k, 40% of the class (Section 5.1) and 20% on Dogfish (Section 5.4), and leaves open which gradient is
meant and when a medoid is isolated. We decided (docs/methods.md 2.9): the gradient of the last dense layer, with that
of the logits and the whole one beside it; and a medoid is isolated where no other point is assigned to it. EPIC, whose
idea this is, takes softmax minus one-hot and drops clusters of one point (public code, train_poison_epic.py:548-571).
k is rounded, but it is at least one and less than the whole class: the only sample of a class has no neighbours from
which it could differ, and stays. Medoids are found by `palimpsest.medoids`, in place of the paper's bandits, which are
fast where medoids are few.

Without any attack most of what is isolated are simply the largest gradients. So there are two controls, which drop as
many samples of each class: drawn at random, or those with the largest gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch

from palimpsest.curvature import gram
from palimpsest.data import Samples
from palimpsest.medoids import cluster, distances_of
from palimpsest.models import Network, finite
from palimpsest.seeds import stable_seed
from palimpsest.unlearners import Step, Unlearned, gathered, unlearner, wrapped

TASKS = ("classification",)
WRAPS = {"with": (), "without": ("requests",), "why": "its base training would have to know what is isolated"}


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    backbone: str = "first_order",
    settings: Mapping[str, Any] = MappingProxyType({}),
    share: Annotated[float, "(0, 1)"] = 0.4,
    gradient: Literal["last_layer", "logit", "full"] = "last_layer",
    by: Literal["medoids", "random", "gradient_norm"] = "medoids",
    memory: Annotated[int, "[1, inf)"] = 2**29,
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return `model` after `backbone` has removed the isolated samples of `retain`, which is the whole training set;
    and what that leaves.

    What was asked for, `forget`, is not looked at; where it stands, `at.indices`, is only counted: `told/points`,
    `told/isolated`, `told/asked` and `told/isolated_asked`. Where nothing is isolated the model stays as it is.
    backbone: another unlearner. settings: its hyper-parameters. share: of a class, how much are medoids. gradient: over
    the parameters of the last dense layer, over the logits, or over all parameters. by: what is dropped, the isolated
    medoids or as many of each class by another rule. memory: how many bytes gradients over all parameters may take at
    once. Raises `ValueError` for another backbone or setting, and what the backbone raises.
    """
    remove = wrapped("medoid_defense", WRAPS, backbone)
    labels = retain.labels
    dropped = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    generator = torch.Generator().manual_seed(stable_seed(at.seed, "dropped"))
    for label in labels.unique():
        place = (labels == label).nonzero().flatten()
        of_class = Samples(*(part[place] for part in retain))
        products = finite(gram(model, of_class, gradient, memory=memory), "the inner products of gradients")
        found = isolated(products, share)
        if by == "random":
            found = torch.randperm(len(place), generator=generator)[: len(found)]
        elif by == "gradient_norm":
            found = products.diagonal().sort(descending=True, stable=True).indices[: len(found)]
        dropped[place[found.to(place.device)]] = True
    asked = torch.zeros_like(dropped)
    if at.indices is not None:
        asked[at.indices] = True
    left, gone = (Samples(*(part[chosen] for part in retain)) for chosen in (~dropped, dropped))
    step = replace(at, indices=dropped.nonzero().flatten(), replacement=None)
    made: Unlearned = remove(model, gone, left, step, **gathered(remove, settings))
    counts = {"points": dropped.new_ones(len(dropped)), "isolated": dropped}
    counts |= {"asked": asked, "isolated_asked": dropped & asked}
    return made.network, {**made.kept, **{f"told/{name}": chosen.sum() for name, chosen in counts.items()}}


def isolated(products: torch.Tensor, share: float) -> torch.Tensor:
    """Return the medoids to which no other point is assigned, `int64` (m,), of points by their inner products (N, N).

    share: how many of the points are medoids.
    """
    count = min(max(1, round(share * len(products))), len(products) - 1)
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    found = cluster(distances_of(products), count)
    return found.medoids[found.sizes == 1]
