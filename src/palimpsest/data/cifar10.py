"""CIFAR-10: 32x32 RGB photographs, 50,000 train and 10,000 test images of ten classes, each as large.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. No formal licence; the author asks that the report be cited.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from palimpsest.data import Images
from palimpsest.data import _files as files

# URL and MD5s: torchvision.datasets.CIFAR10.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
MD5S = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
COUNTS = (50_000, 10_000)


def load(root: Path) -> Images:
    """CIFAR-10 as (N, 3, 32, 32), in upstream order (batches 1 to 5, then the test batch).

    root: holds cifar-10-batches-py/ or cifar-10-python.tar.gz, which is read without unpacking it; where neither is,
        the archive is downloaded (170 MB).
    Raises `DataError` for a file that cannot be had, or that is not the upstream one.
    """
    mend = f"delete {root / FOLDER}, then {files.get([URL], root)}"
    contents = files.members(root, FOLDER, Path(URL).name, MD5S, URL, MD5)
    batches = {name: files.unpickle(data, root / FOLDER / name, mend) for name, data in contents.items()}
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for names in ([name for name in MD5S if name.startswith("data_batch")], ["test_batch"]):
        # A row is 1,024 red, 1,024 green, 1,024 blue: already channel first.
        pixels = np.concatenate([batches[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
        labels = [label for name in names for label in batches[name]["labels"]]
        splits.append((torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64)))
    images = Images.of(tuple(batches["batches.meta"]["label_names"]), train=splits[0], test=splits[1])
    return files.counted(images, COUNTS, root / FOLDER, mend)
