"""SVHN: house numbers cropped to one digit, 32x32 RGB, 73,257 train and 26,032 test images of ten classes.

Netzer, Wang, Coates, Bissacco, Wu, Ng, "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS
Workshop on Deep Learning and Unsupervised Feature Learning, 2011, http://ufldl.stanford.edu/housenumbers. Terms
stated there: for non-commercial use only. The `extra` images (531,131) are not read.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat

from palimpsest.data import Images
from palimpsest.data import _files as files

# MD5s and URL: torchvision.datasets.SVHN.
MD5S = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}
URL = "http://ufldl.stanford.edu/housenumbers/"
COUNTS = (73_257, 26_032)
CLASSES = tuple("0123456789")


def load(root: Path) -> Images:
    """SVHN's cropped digits as (N, 3, 32, 32), in upstream order; the label is the digit (upstream's 10 becomes 0).

    root: holds train_32x32.mat and test_32x32.mat, or SVHN/ with them; absent ones are downloaded into root itself,
        where torchvision puts them (246 MB).
    Raises `DataError` for a file that cannot be had, or that is not the upstream one.
    """
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, md5 in MD5S.items():
        path = root / "SVHN" / name
        if (root / name).exists() or not path.exists():
            path = root / name
        mend = f"delete it, then {files.get([URL + name], path.parent)}"
        files.fetch(path, [URL + name], md5)
        contents = loadmat(io.BytesIO(files.read(path, md5, mend)))
        pixels = np.ascontiguousarray(contents["X"].transpose(3, 2, 0, 1))  # upstream: (32, 32, 3, N)
        labels = torch.from_numpy(contents["y"].reshape(-1).astype(np.int64))
        if len(pixels) != len(labels):
            raise files.fault(path, f"as many labels as images ({len(pixels)})", f"{len(labels)}", mend)
        splits.append((torch.from_numpy(pixels), labels % 10))
    mend = f"delete {' and '.join(MD5S)}, then get them from {URL} and put them in {root}"
    return files.counted(Images.of(CLASSES, train=splits[0], test=splits[1]), COUNTS, root, mend)
