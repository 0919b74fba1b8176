"""CIFAR-100: 32x32 RGB photographs, 500 train and 100 test images of each of 100 fine classes, or a fixed part of them.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. No formal licence; the author asks that the report be cited.

The part is the project's own, for machines that cannot carry the whole (a result on it is reported as such). Its rule,
with `random.Random(0)`, first for train and then for test: for each fine class in label order, draw
`sample(sorted file names, 120)` (30 of test), then `shuffle` all that were drawn once; of that order, the first so
many of each class. The shuffled order is kept: it mixes the classes, and the pre-cut folder cifar-100-python-subset/
(50 and 12 of each class) is in it too, so both sources give the same images in the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from palimpsest.data import DataError, Images
from palimpsest.data import _files as files
from palimpsest.ranges import checked

# URL and MD5s: torchvision.datasets.CIFAR100.
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
FOLDER = "cifar-100-python"
MD5S = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
COUNTS = (50_000, 10_000)

# The pre-cut part, in upstream's pickle format.
PART_FOLDER = "cifar-100-python-subset"
PART_MD5S = {
    "train": "4eeed5795738044f6bf65111dc096c41",
    "test": "c5c4c05f46773139bf8555bb719b973e",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
PART_PER_CLASS = (50, 12)
DRAWN_PER_CLASS = (120, 30)


@checked
def load(
    root: Path, *, per_class: tuple[Annotated[int, "[1, inf)"], Annotated[int, "[1, inf)"]] | None = None
) -> Images:
    """CIFAR-100 as (N, 3, 32, 32) with its fine labels.

    root: holds cifar-100-python/ or cifar-100-python.tar.gz, which is read without unpacking it; where neither is, the
        archive is downloaded (169 MB), unless cifar-100-python-subset/ is there and has as many of each class as
        `per_class` asks for.
    per_class: train and test images of each class by the rule above, in its order, at most (120, 30); None takes all
        images in upstream order.
    Raises `DataError` for a file that cannot be had, or that is not the right one, and for a larger `per_class`.
    """
    if per_class is not None and not _within(per_class, DRAWN_PER_CLASS):
        raise DataError(
            f"cifar100: per_class is at most {DRAWN_PER_CLASS}, which the rule draws, found {tuple(per_class)}"
        )
    whole_is_here = (root / FOLDER).is_dir() or (root / Path(URL).name).exists()
    part_is_enough = per_class is not None and _within(per_class, PART_PER_CLASS)
    take_part = part_is_enough and not whole_is_here and (root / PART_FOLDER).is_dir()
    folder, md5s = (PART_FOLDER, PART_MD5S) if take_part else (FOLDER, MD5S)
    mend = f"delete {root / folder}, then {files.get([URL], root)}"
    contents = files.members(root, folder, Path(URL).name, md5s, URL, MD5)
    batches = {name: files.unpickle(data, root / folder / name, mend) for name, data in contents.items()}

    rng = random.Random(0)  # one generator for both splits: the test draw continues where the train draw stopped
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for split, name in enumerate(("train", "test")):
        labels = batches[name]["fine_labels"]
        order: Sequence[int] = range(len(labels))
        if per_class is not None:
            if not take_part:
                order = _draw(batches[name], DRAWN_PER_CLASS[split], rng)
            order = _first_of_each_class(order, labels, per_class[split])
        # A row is 1,024 red, 1,024 green, 1,024 blue: already channel first.
        pixels = np.ascontiguousarray(batches[name]["data"][list(order)]).reshape(-1, 3, 32, 32)
        splits.append((torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64)[list(order)]))
    images = Images.of(tuple(batches["meta"]["fine_label_names"]), train=splits[0], test=splits[1])
    count = len(images.classes)
    counts = COUNTS if per_class is None else (per_class[0] * count, per_class[1] * count)
    return files.counted(images, counts, root / folder, mend)


def _within(per_class: Sequence[int], limit: tuple[int, int]) -> bool:
    return len(per_class) == 2 and 0 <= per_class[0] <= limit[0] and 0 <= per_class[1] <= limit[1]


def _draw(batch: dict[str, Any], per_class: int, rng: random.Random) -> list[int]:
    """Indices of `per_class` images of each class, all shuffled together."""
    labels, names = batch["fine_labels"], batch["filenames"]
    drawn: list[int] = []
    for label in range(max(labels) + 1):
        members = [index for index, found in enumerate(labels) if found == label]
        drawn += rng.sample(sorted(members, key=names.__getitem__), per_class)
    rng.shuffle(drawn)
    return drawn


def _first_of_each_class(order: Sequence[int], labels: Sequence[int], per_class: int) -> list[int]:
    taken: Counter[int] = Counter()
    kept = []
    for index in order:
        if taken[labels[index]] < per_class:
            taken[labels[index]] += 1
            kept.append(index)
    return kept
