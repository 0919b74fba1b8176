"""Two digits side by side: 100 or 200 classes made from the ten of `digits`, the demo's many-class data set.

The left and the right half are images of `digits` as they are, so an image is 8x16 and its class is the number it
reads: 10 * left + right. With both polarities each class exists twice, white on black and black on white, which makes
as many classes as Tiny-ImageNet has. Source and licence: see `digits`.

Train pairs are made of train digits and test pairs of test digits, so no test image holds a half that was trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from palimpsest.data import DataError, Images, digits
from palimpsest.ranges import checked


@checked
def load(
    root: Path,
    *,
    train_per_class: Annotated[int, "[1, inf)"] = 30,
    test_per_class: Annotated[int, "[1, inf)"] = 10,
    seed: Annotated[int, "[0, inf)"] = 0,
    both_polarities: bool = False,
) -> Images:
    """Pairs of digits as (N, 1, 8, 16), grey levels 0 to 255.

    root: not read; the digits come with scikit-learn.
    train_per_class, test_per_class: pairs of each of the 100 numbers, drawn without replacement among all pairs of a
        left and a right digit, so no two are the same.
    seed: of the split of the digits, the draw and the order, which is shuffled.
    both_polarities: add each pair once more as 255 - x, class k becoming 100 + k, named "k inverted".
    Raises `DataError` when a class has fewer distinct pairs than asked for.
    """
    single = digits.load(root, seed=seed)
    train = _pairs(single.train_images, single.train_labels, train_per_class, seed, both_polarities)
    test = _pairs(single.test_images, single.test_labels, test_per_class, seed, both_polarities)
    classes = tuple(f"{number:02d}" for number in range(100))
    if both_polarities:
        classes += tuple(f"{name} inverted" for name in classes)
    return Images.of(classes, train=train, test=test)


def _pairs(
    images: torch.Tensor, labels: torch.Tensor, per_class: int, seed: int, both_polarities: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    members = [images[labels == digit] for digit in range(10)]
    pairs = []
    for number in range(100):
        left, right = members[number // 10], members[number % 10]
        combinations = len(left) * len(right)
        if per_class > combinations:
            raise DataError(
                f"digit_pairs: class {number:02d} has {combinations} distinct pairs, {per_class} were asked for"
            )
        drawn = torch.randperm(combinations, generator=generator)[:per_class]
        pairs.append(torch.cat([left[drawn // len(right)], right[drawn % len(right)]], dim=3))
    pixels, numbers = torch.cat(pairs), torch.arange(100).repeat_interleave(per_class)
    if both_polarities:
        pixels, numbers = torch.cat([pixels, 255 - pixels]), torch.cat([numbers, numbers + 100])
    order = torch.randperm(len(numbers), generator=generator)
    return pixels[order], numbers[order]
