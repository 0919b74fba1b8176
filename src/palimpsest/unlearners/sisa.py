"""SISA: a vote of networks that each saw one shard of the data; a request retrains its shards (Bourtoule et al., 2021).

The training set is split at random into `shards`, each of them into `slices`, as equal as possible. The network of a
shard trains on slice 0, then on slices 0 and 1, and so on, and its state after each slice is kept. A request retrains
the shards that hold its samples, each from the state before the first slice that holds one; the others stay as they are
(IEEE S&P 2021). Slice s of S trains for

    floor((s + 1) 2E / (S + 1)) - floor(s 2E / (S + 1))   epochs, where E is the number of the recipe's epochs

which cost about E passes over the shard (public code, sisa.py:110-130, in floats, where an epoch can slip to the next
slice; here in whole numbers). The method is exact: the result is the network of a training that never saw the samples,
with this split, and with the seed of `train_base` it is that network bit for bit.

The optimiser starts fresh at each slice. The public code carries it from slice to slice while it trains and starts it
fresh where it resumes for a request, which is not exact once there is momentum. A recipe's schedule runs once a slice,
stretched to its epochs (this is ours; public code and both papers train at a constant rate). BatchNorm's running
statistics are part of a slice's state and go back with it. Members begin with weights of their own (the public code's
are not seeded); what is random in slice s of shard k depends on the seed, k and s. `models.ensemble` describes the
aggregation.

A request that modifies data puts the replacement into its sample's place and retrains from there (malicious paper,
Sections 2 and 5.2). Values: 5 shards (malicious paper, Section 5.2) and one slice (public code's default); the healing
paper has 3 and 5 (Section 5.1). As many states are kept as there are shards times slices: for 3 x 5 ResNet-18 0.7 GB.
After a request they are the states of the new networks, so a second request is as exact as the first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, cast

import torch

from palimpsest.curvature import batches
from palimpsest.data import Samples, pixels
from palimpsest.models import Network, create, ensemble, evaluated
from palimpsest.ranges import checked
from palimpsest.seeds import stable_seed
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Base, Step, unlearner

TASKS = ("classification",)

log = logging.getLogger(__name__)


@checked
def train_base(
    model: Network,
    data: Samples,
    at: Base,
    *,
    shards: Annotated[int, "[1, train]"] = 5,
    slices: Annotated[int, "[1, 2 * epochs - 1]"] = 1,
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return the ensemble of networks like `model`, with fresh weights of their own, trained on `data`; and what it
    keeps.

    Kept are each sample's place, `assignment/shard` and `assignment/slice`, `int64` (N,), and the states after each
    slice, `shard0/slice0/net.…`. Raises `ValueError` where a slice would have no epoch or no sample.
    """
    count = len(data.labels)
    if count < shards * slices:
        raise ValueError(f"sisa: {count} samples do not fill {slices} slices in each of {shards} shards")
    place = torch.empty(2, count, dtype=torch.int64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stable_seed(at.seed, "assignment")))
    for k, shard in enumerate(order.tensor_split(shards)):
        for s, part in enumerate(shard.tensor_split(slices)):
            place[:, part] = torch.tensor([[k], [s]])
    place = place.to(data.labels.device)
    keywords = {"method": model.spec.method, "members": shards, "keywords": dict(model.spec.keywords)}
    spec = replace(model.spec, method="ensemble", keywords=keywords)
    network = create(spec, model.mean, model.std, at.seed).to(model.mean)
    steps = [(k, s) for k in range(shards) for s in range(slices)]
    states = _train(network, data, place, steps, {}, at, slices)
    return network.eval(), {"assignment/shard": place[0], "assignment/slice": place[1], **states}


@unlearner(replaces=True)
def unlearn(
    model: Network, forget: Samples, retain: Samples, at: Step, *, shard_accuracy: bool = False
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return the ensemble with the shards that hold `forget` retrained, each from its first such slice; and what it
    leaves.

    Kept is what `train_base` left, as it is after the request: the places of the samples that stay, and the new states.
    shard_accuracy: whether the step also says how well the networks do on the samples of the other shards: the mean of
    their accuracies and the least, in percent (`told/shard_accuracy`, `told/shard_accuracy_least`). Raises `ValueError`
    where the data differ from those that were trained on, or where nothing is left of a slice and those before it.
    """
    if not at.kept or at.indices is None:
        raise ValueError("sisa: the base model is no ensemble with the states of its slices; train it with train_base")
    place = torch.stack([at.kept["assignment/shard"], at.kept["assignment/slice"]])
    count = len(forget.labels) + len(retain.labels)
    if place.shape[1] != count:
        raise ValueError(f"sisa: the model was trained on {place.shape[1]} samples, and the request is on {count}")
    slices = len({name.split("/")[1] for name in at.kept if name.startswith("shard0/")})
    touched = place[:, at.indices]
    steps = [
        (k, s) for k in touched[0].unique().tolist() for s in range(int(touched[1, touched[0] == k].min()), slices)
    ]
    if at.replacement is None:
        stays = torch.ones_like(place[0], dtype=torch.bool)
        stays[at.indices] = False
        place = place[:, stays]
    data = at.remaining(retain)
    states = _train(model, data, place, steps, at.kept, at, slices)
    kept = {**at.kept, **states, "assignment/shard": place[0], "assignment/slice": place[1]}
    return model, kept | (_accuracies(model, data, place[0]) if shard_accuracy else {})


def slice_epochs(epochs: int, slices: int) -> list[int]:
    """How many epochs each slice trains for. Raises `ValueError` where one would have none."""
    ends = [s * 2 * epochs // (slices + 1) for s in range(slices + 1)]
    found = [end - start for start, end in pairwise(ends)]
    if not all(found):
        raise ValueError(
            f"sisa: {epochs} epochs over {slices} slices leave slice {found.index(0)} none; "
            f"take at least {math.ceil((slices + 1) / 2)} epochs or fewer slices"
        )
    return found


def _train(
    network: Network,
    data: Samples,
    place: torch.Tensor,
    steps: Sequence[tuple[int, int]],
    kept: Mapping[str, torch.Tensor],
    at: Base | Step,
    slices: int,
) -> dict[str, torch.Tensor]:
    """Train the slices `steps` (shard, slice) on `data`, which lies at `place` (2, N), into `network`; return their
    states.

    kept: the states that are there already, for the slices before.
    """
    epochs = slice_epochs(at.recipe.epochs, slices)
    of = network.spec.keywords
    spec = replace(network.spec, method=of["method"], keywords=of["keywords"])
    members = cast(ensemble.Ensemble, network.net).members
    done, states = at.checkpoint.restore() if at.checkpoint else (0, {})
    states = {name: tensor.to(network.mean.device) for name, tensor in states.items()}
    for position, (k, s) in enumerate(steps):
        before, after = f"shard{k}/slice{s - 1}/", f"shard{k}/slice{s}/"
        if position >= done:
            member = create(spec, network.mean, network.std, stable_seed(at.seed, k, "initial")).to(network.mean)
            if s:
                known = {**kept, **states}
                member.load_state_dict({name: known[before + name] for name in member.state_dict()})
            chosen = (place[0] == k) & (place[1] <= s)
            if not chosen.any():
                raise ValueError(f"sisa: nothing is left of shard {k} up to its slice {s}")
            log.info("shard %d, slice %d: %d samples, %d epochs", k, s, int(chosen.sum()), epochs[s])
            # A file and a clock of its own: else the writes within a slice keep the finished ones from being written.
            within = at.checkpoint and at.checkpoint.part("slice", f"{k}/{s}")
            fit(
                member,
                Samples(data.images[chosen], data.labels[chosen]),
                _stretched(at.recipe, epochs[s]),
                seed=stable_seed(at.seed, k, s),
                task=at.task,
                checkpoint=within,
            )
            found = member.state_dict()
            states |= {after + name: tensor.contiguous().clone() for name, tensor in found.items()}
            if at.checkpoint and within:
                at.checkpoint.save(position + 1, states)
                within.path.unlink(missing_ok=True)
        if s == slices - 1:
            last = f"{after}net."
            members[k].load_state_dict(
                {name.removeprefix(last): tensor for name, tensor in states.items() if name.startswith(last)}
            )
    return states


def _accuracies(network: Network, data: Samples, shard: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what is said of the networks; nothing where there is one, which has seen all samples."""
    members = cast(ensemble.Ensemble, network.net).members
    if len(members) == 1:
        return {}
    found = []
    with torch.no_grad(), evaluated(network):
        for k, member in enumerate(members):
            others = Samples(data.images[shard != k], data.labels[shard != k])
            right = [
                member((pixels(images, network.mean.dtype) - network.mean) / network.std).argmax(1) == labels
                for images, labels in batches(others)
            ]
            found.append(100 * torch.cat(right).double().mean())
    each = torch.stack(found)
    return {"told/shard_accuracy": each.mean(), "told/shard_accuracy_least": each.min()}


def _stretched(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with its schedule over `epochs`."""
    share = epochs / recipe.epochs
    milestones = [math.ceil(milestone * share) for milestone in recipe.milestones]
    return replace(recipe, epochs=epochs, milestones=milestones, warmup_epochs=recipe.warmup_epochs * share)
