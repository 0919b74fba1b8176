"""A membership attack: a support vector machine that says of an image whether it was in the training set.

This is SalUn's SVC_MIA (SVC_MIA.py:53-82; docs/methods.md 2.11). Its one feature is the softmax probability of the true
class. SVC(C=3, gamma="auto", kernel="rbf") is trained on members, retained training images, against as many
non-members, the test images. The result is the share of forget images that it calls training images, the member rate.
The UMA paper's MIA is this share (original 0.98, retrained 0.00 for a class); SalUn prints one minus it.

Public code takes the first retained images in data-set order as members. Where a data set is sorted by class, those are
a few classes only, and what tells them from test images is how sure the network is of these classes. By default as
many members are taken of one class as of another; `as_released` takes the first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.svm import SVC

Attacker = Callable[[torch.Tensor], float]


def train(retain: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, *, as_released: bool = False) -> Attacker:
    """Fit the attack; it maps probabilities of the true class (M,) to the member rate, 0 to 1.

    retain: these probabilities of the retained images (N,) in data-set order. labels: their classes (N,). test: those
    of the non-members. All lie on the CPU.
    """
    chosen = torch.arange(len(retain))[: len(test)] if as_released else balanced(labels, len(test))
    features = _column(torch.cat([retain[chosen], test]))
    target = np.concatenate([np.ones(len(chosen)), np.zeros(len(test))])
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(features, target)
    return lambda probabilities: float(machine.predict(_column(probabilities)).mean())


def balanced(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of `count` of some labels (N,), in order: the first of each class, then the second of each,
    and so on.
    """
    order, counts = labels.sort(stable=True).indices, labels.bincount()
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return rank.sort(stable=True).indices[:count].sort().values


def _column(probabilities: torch.Tensor) -> np.ndarray:
    return probabilities.double().numpy()[:, None]
