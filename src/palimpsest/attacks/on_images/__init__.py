"""Attacks on images: each file is one method and has one function, `attack(at: OnImages, *, ...) -> Attacked`.

What stands after `*` are the method's hyper-parameters, each with its default and, in its annotation, its range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from palimpsest.data import Images, Samples
from palimpsest.tasks import Task, classification


@dataclass(frozen=True)
class OnImages:
    """What the workflow gives an attack on images; all of it lies on one device.

    model: the unlearned network. original: the network before unlearning. Both take pixels in [0, 1]. samples: the
    images to attack, `uint8` (N, C, H, W), and their labels. seed: decides everything that the attack draws. task: what
    the networks were trained for.
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


def aimed_at(on: Literal["forget", "unseen"], images: Images, forget: Samples, retain: Samples, seed: int) -> Samples:
    """Return the images on which an attack is tried.

    `forget` takes all forget images. `unseen` is a control: it takes as many test images as there are forget images (or
    all there are), which no model was trained on; where whole classes were forgotten, they are of these classes.
    """
    if on == "forget":
        return forget
    gone = ~torch.isin(images.test_labels, retain.labels.unique())
    pool = (gone if bool(gone.any()) else torch.ones_like(gone)).nonzero().flatten()
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[: len(forget.labels)]
    chosen = pool[order.to(pool.device)].sort().values
    return Samples(images.test_images[chosen], images.test_labels[chosen])
