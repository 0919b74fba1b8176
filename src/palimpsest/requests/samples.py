"""Random samples: a number or a share of the training set, or of some of its classes.

The UMA paper forgets 5,000 or 10,000 random training images (Section 5.1), the healing paper 25 of one class, and 5% to
30% of all (its Sections 5.1 and 5.3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch

from palimpsest.data import Images
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, check


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, train)"] | None = None,
    share: Annotated[float, "(0, 1]"] | None = None,
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    keep_classes: bool = False,
) -> Request:
    """Training samples drawn by `at.seed` alone, ascending.

    count, share: how many, or which share of those there are; exactly one of the two is given. classes: draw among the
    samples of these alone. keep_classes: whether a class may not lose its last sample.
    Raises `RequestError` where there are too few.
    """
    if (count is None) == (share is None):
        raise RequestError("samples: a request takes exactly one of count, share")
    labels = images.train_labels.cpu().numpy()
    among = np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, list(classes)))
    wanted = count if count is not None else round(float(share or 0) * len(among))
    if not 0 < wanted <= len(among) or wanted == len(labels):
        raise RequestError(f"cannot forget {wanted} of {len(among)} training samples")
    drawn = np.random.Generator(np.random.PCG64(at.seed)).permutation(len(among))[:wanted]
    return check(images, Request(torch.from_numpy(np.sort(among[drawn]))), keep_classes)
