"""The 1,797 handwritten digits that scikit-learn ships, the demo's data set: no download, 8x8 pixels.

Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49 (its test part, as `sklearn.datasets.load_digits`). 174 to 183 images of each of ten
classes, 17 grey levels. Licence: CC BY 4.0.

scikit-learn has no train/test split, so one is made here, stratified and seeded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from sklearn.datasets import load_digits

from palimpsest.data import DataError, Images
from palimpsest.ranges import checked

CLASSES = tuple("0123456789")
GREY_LEVELS = 16  # the source counts the ink of a 4x4 block, 0 to 16


@checked
def load(
    root: Path,
    *,
    test_fraction: Annotated[float, "(0, 1)"] = 0.2,
    seed: Annotated[int, "[0, inf)"] = 0,
) -> Images:
    """The digits as (N, 1, 8, 8), white ink on black: 0..16 of the source becomes 0..255.

    root: not read; the images come with scikit-learn.
    test_fraction: the share of each class that becomes test images, rounded to whole images.
    seed: of the split and of the order, which is shuffled.
    Raises `DataError` when `test_fraction` leaves a class without train or test images.
    """
    source = load_digits()
    images = torch.from_numpy(np.rint(source.images * (255 / GREY_LEVELS)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(source.target).long()
    generator = torch.Generator().manual_seed(seed)
    train_parts, test_parts = [], []
    for label, name in enumerate(CLASSES):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(len(members) * test_fraction)
        if not 0 < held_out < len(members):
            raise DataError(
                f"digits: a test_fraction of {test_fraction} makes {held_out} of the {len(members)} images of class "
                f"{name} test images, it must leave some for both splits"
            )
        test_parts.append(members[:held_out])
        train_parts.append(members[held_out:])
    train, test = torch.cat(train_parts), torch.cat(test_parts)
    train = train[torch.randperm(len(train), generator=generator)]
    test = test[torch.randperm(len(test), generator=generator)]
    return Images.of(CLASSES, train=(images[train], labels[train]), test=(images[test], labels[test]))
