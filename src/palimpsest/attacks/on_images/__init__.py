"""Attacks on images: each file is one method and has one function, `attack(at: OnImages, *, ...) -> Attacked`.

What stands after `*` are the method's hyper-parameters, each with its default and, in its annotation, its range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from palimpsest.data import Images, Samples
from palimpsest.models import answers
from palimpsest.tasks import Task, classification


@dataclass(frozen=True)
class OnImages:
    """What the workflow gives an attack on images; all of it lies on one device.

    model: the unlearned network. original: the network before unlearning, or in a control another whose answers are
    sought. Both take pixels in [0, 1]. samples: the images to attack, `uint8` (N, C, H, W), and their labels. seed:
    decides everything that the attack draws. task: what the networks were trained for.
    """

    model: nn.Module
    original: nn.Module
    samples: Samples
    seed: int
    task: Task = classification


class Attacked(NamedTuple):
    """What an attack on images made.

    images: `uint8` (E, N, C, H, W), one block for each epsilon. targets: what the attack aimed at, a class for each
    image, `int64` (N,); where the task's targets are images, those images (N, C, H, W). loss: float32 (E, N), the
    attack's loss at the rounded images.
    """

    images: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


def aimed_at(
    on: str,
    images: Images,
    forget: Samples,
    retain: Samples,
    seed: int,
    equally_sure: float | None = None,
    original: nn.Module | None = None,
    at_most: int | None = None,
) -> Samples:
    """Return the images on which an attack is tried: all, or `at_most` of them, drawn by `seed`.

    on: `forget` takes all forget images. The others are controls, on which no model was trained: `unseen` takes test
    images, where whole classes were forgotten of these classes; `retained` takes test images of the classes that stay;
    any other name is that of a split that the data set holds back. Each takes as many as `unseen` has, and no more than
    there are forget images, so that what depends on their number can be compared.

    equally_sure: where given, both take only images of which the `original` is as sure (`equal_parts`), so that what
    one of them reaches can be held against the other (docs/methods.md#u-7c).
    """
    stays = torch.isin(images.test_labels, retain.labels.unique())
    gone = ~stays if not bool(stays.all()) else stays
    unseen, kept = (Samples(images.test_images[some], images.test_labels[some]) for some in (gone, stays))
    asked = {**images.held_back, "forget": forget, "unseen": unseen, "retained": kept}[on]
    if equally_sure is not None:
        assert original is not None
        known, new = (log_odds(torch.cat([*answers(original, part.images)])) for part in (forget, unseen))
        chosen = equal_parts(known, new, equally_sure, seed, at_most)[on == "unseen"]
    else:
        chosen = torch.arange(len(asked.labels), device=asked.labels.device)
        if on != "forget":
            chosen = _some(chosen, min(len(unseen.labels), len(forget.labels)), seed)
    chosen = _some(chosen, at_most, seed)
    return Samples(asked.images[chosen], asked.labels[chosen])


def _some(indices: torch.Tensor, count: int | None, seed: int) -> torch.Tensor:
    """Return `count` of the indices in their order, drawn by `seed`, or all where there are no more."""
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:count]
    return indices[order.to(indices.device).sort().values]


def log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of p / (1 - p) for the largest of probabilities (N, K), (N,), at most 27.6."""
    top, place = probabilities.double().max(1)
    others = probabilities.double().scatter(1, place[:, None], 0.0).sum(1)  # exact where p is all but 1
    return top.log() - others.clamp(min=1e-12).log()


def equal_parts(
    ours: torch.Tensor, theirs: torch.Tensor, width: float, seed: int, at_most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices into two sets of numbers (N,), (M,): of each bin of `width` as many of one set as of the other.

    As many are taken as the poorer set has in the bin, drawn by `seed`; no number is taken twice. at_most: how many of
    each set; where there are more, the pairs that stay are drawn too.
    """
    bins, place = torch.cat([(one / width).floor().cpu() for one in (ours, theirs)]).unique(return_inverse=True)
    counts = [part.bincount(minlength=len(bins)) for part in place.split([len(ours), len(theirs)])]
    quota, generator, found = torch.minimum(*counts), torch.Generator().manual_seed(seed), []
    if at_most is not None:
        pairs = torch.arange(len(bins)).repeat_interleave(quota)
        quota = pairs[torch.randperm(len(pairs), generator=generator)[:at_most]].bincount(minlength=len(bins))
    for one, part, count in zip((ours, theirs), place.split([len(ours), len(theirs)]), counts, strict=True):
        order = torch.randperm(len(part), generator=generator)
        order = order[part[order].sort(stable=True).indices]  # bin by bin, at random in each
        rank = torch.arange(len(part)) - (count.cumsum(0) - count)[part[order]]
        found.append(order[rank < quota[part[order]]].sort().values.to(one.device))
    return found[0], found[1]
