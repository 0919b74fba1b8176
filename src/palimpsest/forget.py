"""Forget sets: which training images a request asks to forget, by rule and seed.

The UMA paper forgets whole classes (class 0 of CIFAR-10; 5, 16, 25, 34, 78 of CIFAR-100; ten of Tiny-ImageNet) and
5,000 or 10,000 random training images (S000:276). The label-leakage paper draws one class, three, or up to nine at
random (S001:190). Indices count into the whole training set: no validation split is taken away first (decision U-2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ForgetError(Exception):
    """A forget set cannot be drawn from this data."""


def choose(
    labels: np.ndarray,
    seed: int,
    *,
    classes: Sequence[int] | None = None,
    count: int | None = None,
    share: float | None = None,
    random_classes: int | None = None,
    repetition: int = 0,
) -> np.ndarray:
    """Ascending indices (`int64`, (n,)) into the training set.

    labels: the training labels (N,). Exactly one rule: `classes`, all images of these classes; `count`, so many random
    images; `share`, this share of all images at random; `random_classes`, all images of so many classes. Random images
    depend on `seed` alone. Random classes depend on `repetition` alone and come round by round: within a round no class
    is drawn twice, so that ten repetitions of one class of ten ask for each once.
    Raises `ForgetError` where the data has no such class, or nothing would be left to retain.
    """
    if sum(rule is not None for rule in (classes, count, share, random_classes)) != 1:
        raise ForgetError("a forget set takes exactly one of classes, count, share, random_classes")
    if random_classes is not None:
        classes = _in_rounds(sorted(set(labels.tolist())), random_classes, repetition)
    if classes is not None:
        missing = sorted(set(classes) - set(labels.tolist()))
        if missing:
            raise ForgetError(
                f"the training set has no class {missing[0]}; its classes are {labels.min()}..{labels.max()}"
            )
        chosen = np.flatnonzero(np.isin(labels, list(classes)))
    else:
        wanted = count if count is not None else round(float(share or 0) * len(labels))
        if not 0 < wanted < len(labels):
            raise ForgetError(f"cannot forget {wanted} of {len(labels)} training images")
        chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))[:wanted])
    if len(chosen) == len(labels):
        raise ForgetError("the forget set is the whole training set: nothing is left to retain")
    return chosen.astype(np.int64)


def _in_rounds(classes: Sequence[int], count: int, repetition: int) -> list[int]:
    if not 0 < count < len(classes):
        raise ForgetError(f"cannot forget {count} of {len(classes)} classes")
    turn, place = divmod(repetition, len(classes) // count)
    shuffled = np.random.Generator(np.random.PCG64([len(classes), count, turn])).permutation(classes)
    return sorted(shuffled[place * count : (place + 1) * count].tolist())
