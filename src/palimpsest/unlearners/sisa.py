"""SISA: a vote of networks that each saw one shard of the data; a request retrains its shards (Bourtoule et al., 2021).

The training set is split at random into `shards`, each into `slices`, as equal as possible. Shard k's network trains on
slice 0, then on slices 0 and 1, and so on, and its state after each slice is kept. A request retrains the shards that
hold its samples, each from the state before the first slice that does; the others stay as they are (IEEE S&P 2021).
Slice s of S trains for

    floor((s + 1) 2E / (S + 1)) - floor(s 2E / (S + 1))   epochs, E those of the recipe

which cost about E passes over the shard (public code, sisa.py:110-130, in floats, where an epoch can slip to the next
slice; here in whole numbers). Exact: the result is the network of a training that never saw the samples, with this
split, and with the seed of `train_base` bit for bit that network.

The optimiser starts fresh at each slice. The public code carries it from slice to slice while it trains and starts it
fresh where it resumes for a request, which is not exact once there is momentum. A recipe's schedule runs once a slice,
stretched to its epochs (ours; public code and both papers train at a constant rate). BatchNorm's running statistics
are part of a slice's state and go back with it. Members begin with weights of their own (the public code's are not
seeded); what is random in shard k's slice s depends on the seed, k and s. Aggregation: see `models.ensemble`.

Requests that modify data put the replacement into its sample's place and retrain from there (S004:57, 199).
Values: 5 shards (S004:199) and one slice (public code's default); the healing paper has 3 and 5 (S003:81).
Kept are shards x slices states: for 3 x 5 ResNet-18 0.7 GB.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from palimpsest.data import Samples
from palimpsest.models import Network, Spec, create, ensemble
from palimpsest.seeds import stable_seed
from palimpsest.train import Checkpoint, Recipe, fit

log = logging.getLogger(__name__)


def train_base(
    model: Network,
    data: Samples,
    *,
    seed: int,
    recipe: Recipe,
    checkpoint: Checkpoint | None = None,
    shards: int = 5,
    slices: int = 1,
) -> tuple[Network, dict[str, torch.Tensor]]:
    """The ensemble of networks like `model`, with fresh weights of their own, trained on `data`; and what it leaves.

    Kept are each sample's place, `assignment/shard` and `assignment/slice`, `int64` (N,), and the states after each
    slice, `shard0/slice0/net.…`. Raises `ValueError` where a slice would have no epoch or no sample.
    """
    count = len(data.labels)
    if count < shards * slices:
        raise ValueError(f"sisa: {count} samples do not fill {slices} slices in each of {shards} shards")
    place = torch.empty(2, count, dtype=torch.int64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stable_seed(seed, "assignment")))
    for k, shard in enumerate(order.tensor_split(shards)):
        for s, part in enumerate(shard.tensor_split(slices)):
            place[:, part] = torch.tensor([[k], [s]])
    place = place.to(data.labels.device)
    keywords = {"method": model.spec.method, "members": shards, "keywords": dict(model.spec.keywords)}
    spec = Spec("ensemble", model.spec.classes, model.spec.channels, keywords)
    network = create(spec, model.mean, model.std, seed).to(model.mean.device)
    steps = [(k, s) for k in range(shards) for s in range(slices)]
    states = _train(network, data, place, steps, {}, seed=seed, recipe=recipe, slices=slices, checkpoint=checkpoint)
    return network, {"assignment/shard": place[0], "assignment/slice": place[1], **states}


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    indices: torch.Tensor,
    kept: Mapping[str, torch.Tensor] | None,
    replacement: Samples | None = None,
    checkpoint: Checkpoint | None = None,
    shards: int = 5,
    slices: int = 1,
) -> Network:
    """The ensemble with the shards that hold `forget` retrained, each from its first slice that does.

    kept: what `train_base` left. A second request is one of the indices of both. replacement: one `uint8` sample for
    each of `forget`, trained on in its place; None removes `forget`. shards, slices: those of `train_base`.
    Raises `ValueError` where these or the data are others, or where nothing is left of a slice and those before it.
    """
    network = deepcopy(model)
    if not len(forget.labels):
        return network
    if kept is None:
        raise ValueError("sisa: the base model is no ensemble with the states of its slices; train it with train_base")
    place = torch.stack([kept["assignment/shard"], kept["assignment/slice"]])
    found = [int(row.max()) + 1 for row in place]
    if found != [shards, slices] or place.shape[1] != len(forget.labels) + len(retain.labels):
        raise ValueError(
            f"sisa: the base model was trained on {place.shape[1]} samples in {found[0]} shards of {found[1]} slices, "
            f"and the request is on {len(forget.labels) + len(retain.labels)} in {shards} of {slices}"
        )
    touched = place[:, indices]
    steps = [
        (k, s) for k in touched[0].unique().tolist() for s in range(int(touched[1, touched[0] == k].min()), slices)
    ]
    stays = torch.ones_like(place[0], dtype=torch.bool)
    stays[indices] = False
    left, place = (retain, place[:, stays]) if replacement is None else (_merged(retain, replacement, stays), place)
    _train(network, left, place, steps, kept, seed=seed, recipe=recipe, slices=slices, checkpoint=checkpoint)
    return network


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
    *,
    seed: int,
    recipe: Recipe,
    slices: int,
    checkpoint: Checkpoint | None,
) -> dict[str, torch.Tensor]:
    """Train the slices `steps` (shard, slice) on `data`, which lies at `place` (2, N), into `network`; their states.

    kept: the states that are there already, for the slices before.
    """
    epochs = slice_epochs(recipe.epochs, slices)
    of = network.spec.keywords
    spec = Spec(of["method"], network.spec.classes, network.spec.channels, of["keywords"])
    members = cast(ensemble.Ensemble, network.net).members

    def fresh_member(k: int) -> Network:
        return create(spec, network.mean, network.std, stable_seed(seed, k, "initial")).to(network.mean.device)

    empty = fresh_member(0).state_dict()
    states = {f"shard{k}/slice{s}/{name}": torch.zeros_like(tensor) for k, s in steps for name, tensor in empty.items()}
    # Between slices no optimiser is at work; a checkpoint wants one, and only what is kept matters.
    idle = nn.LayerNorm(1)
    optimizer = torch.optim.SGD(idle.parameters())
    done = checkpoint.restore(idle, optimizer, states) if checkpoint else 0
    for position, (k, s) in enumerate(steps):
        if position >= done:
            member = fresh_member(k)
            if s:
                known = {**kept, **states}
                member.load_state_dict({name: known[f"shard{k}/slice{s - 1}/{name}"] for name in empty})
            chosen = (place[0] == k) & (place[1] <= s)
            if not chosen.any():
                raise ValueError(f"sisa: nothing is left of shard {k} up to its slice {s}")
            log.info("shard %d, slice %d: %d samples, %d epochs", k, s, int(chosen.sum()), epochs[s])
            # A file and a clock of its own: else the writes within a slice keep the finished ones from being written.
            within = checkpoint and Checkpoint(
                checkpoint.path.with_name(checkpoint.path.name + ".slice"),
                f"{checkpoint.key}/{k}/{s}",
                checkpoint.seconds,
            )
            part = Samples(data.images[chosen], data.labels[chosen])
            fit(member, *part, _stretched(recipe, epochs[s]), seed=stable_seed(seed, k, s), checkpoint=within)
            for name, tensor in member.state_dict().items():
                states[f"shard{k}/slice{s}/{name}"].copy_(tensor)
            if checkpoint and within:
                checkpoint.save(idle, optimizer, position + 1, states)
                within.path.unlink(missing_ok=True)
        if s == slices - 1:
            last = {name: states[f"shard{k}/slice{s}/{name}"] for name in empty if name.startswith("net.")}
            members[k].load_state_dict({name.removeprefix("net."): tensor for name, tensor in last.items()})
    network.eval()
    return states


def _stretched(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with its schedule over `epochs`."""
    share = epochs / recipe.epochs
    milestones = [math.ceil(milestone * share) for milestone in recipe.milestones]
    return replace(recipe, epochs=epochs, milestones=milestones, warmup_epochs=recipe.warmup_epochs * share)


def _merged(retain: Samples, replacement: Samples, stays: torch.Tensor) -> Samples:
    """The whole training set in data-set order, with the replacements where not `stays` (N,)."""
    if len(replacement.labels) != int((~stays).sum()) or replacement.images.dtype != torch.uint8:
        raise ValueError("sisa: a request's replacements are uint8 images, one for each of its samples")
    merged = []
    for old, new in zip(retain, replacement, strict=True):
        whole = torch.empty(len(stays), *new.shape[1:], dtype=old.dtype, device=old.device)
        whole[stays], whole[~stays] = old, new
        merged.append(whole)
    return Samples(*merged)
