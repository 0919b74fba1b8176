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

    model: the unlearned network. original: the one before. Both take pixels in [0, 1].
    samples: the images to attack, `uint8` (N, C, H, W), and their labels. seed: of all that the attack draws.
    task: what the networks answer.
    """

    model: nn.Module
    original: nn.Module
    samples: Samples
    seed: int
    task: Task = classification


class Attacked(NamedTuple):
    """What an attack on images made.

    images: `uint8` (E, N, C, H, W), one block an epsilon. targets: what it aimed at: `int64` (N,), a class for each
    image; or, where the task's targets are images, those (N, C, H, W). loss: float32 (E, N), the attack's loss at
    the rounded images.
    """

    images: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


def aimed_at(on: Literal["forget", "unseen"], images: Images, forget: Samples, retain: Samples, seed: int) -> Samples:
    """The images an attack is tried on.

    `forget`: all of them. `unseen`: a control, as many test images as there are forget images (or all there are), from
    the forgotten classes where whole classes were forgotten; no model was ever trained on them.
    """
    if on == "forget":
        return forget
    gone = ~torch.isin(images.test_labels, retain.labels.unique())
    pool = (gone if bool(gone.any()) else torch.ones_like(gone)).nonzero().flatten()
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[: len(forget.labels)]
    chosen = pool[order.to(pool.device)].sort().values
    return Samples(images.test_images[chosen], images.test_labels[chosen])
