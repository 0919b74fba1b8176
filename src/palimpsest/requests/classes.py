"""Whole classes: those that are named, or a number of classes at random.

The UMA paper forgets class 0 of CIFAR-10, five classes of CIFAR-100 and ten of Tiny-ImageNet (Section 5.1); the
label-leakage paper draws one class, three, or up to nine at random (its Section VI). All training images of a class are
forgotten: no validation split is taken away first (docs/methods.md#u-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch

from palimpsest.data import Images
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError

WHOLE_CLASSES = True  # what is forgotten are classes, of which nothing is retained


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    random: Annotated[int, "[1, classes)"] | None = None,
) -> Request:
    """All training samples of these classes, ascending.

    classes: by number. random: so many classes, drawn by `at.repetition` alone, round by round: within a round no class
    is drawn twice, so that ten repetitions of one class of ten ask for each once. Exactly one of the two is given.
    Raises `RequestError` where the training set has no such class or nothing would be left to retain.
    """
    if (classes is None) == (random is None):
        raise RequestError("classes: a request takes exactly one of classes, random")
    labels = images.train_labels.cpu().numpy()
    known = np.unique(labels).tolist()
    if random is not None:
        classes = _in_rounds(known, random, at.repetition)
    if missing := sorted(set(classes or ()) - set(known)):
        raise RequestError(f"the training set has no class {missing[0]}; its classes are {known[0]}..{known[-1]}")
    return Request(torch.from_numpy(np.flatnonzero(np.isin(labels, list(classes or ())))))


def _in_rounds(classes: Sequence[int], count: int, repetition: int) -> list[int]:
    if not 0 < count < len(classes):
        raise RequestError(f"cannot forget {count} of {len(classes)} classes")
    turn, place = divmod(repetition, len(classes) // count)
    shuffled = np.random.Generator(np.random.PCG64([len(classes), count, turn])).permutation(classes)
    return sorted(shuffled[place * count : (place + 1) * count].tolist())
