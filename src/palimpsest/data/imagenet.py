"""ImageNet-1k, or some of its classes, as photographs in folders: 732 to 1,300 train and 50 test images of each class.

Deng et al., "ImageNet: A Large-Scale Hierarchical Image Database", CVPR 2009; Russakovsky et al., "ImageNet Large Scale
Visual Recognition Challenge", IJCV 2015. The copyright of the images stays with their owners; use is for non-commercial
research and education only. Whoever wants the images registers and accepts these terms, so nothing is downloaded. The
labels of the upstream test images were never published, so the val images are the test images here, as everywhere.

The layout is that of torchvision's `ImageFolder`. Upstream has checksums of its archives and none of such a folder.
What is checked is that every class has as many images as are asked for and that these can be decoded; given
`names_sha256`, also which files they are, by their names. What is in a file is not checked. The files are JPEGs: a
pixel, and so the digest, can differ by a grey level between versions of libjpeg.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from palimpsest.data import DataError, Images
from palimpsest.data import _files as files
from palimpsest.data import _jpegs as jpegs
from palimpsest.ranges import checked

URL = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
FOLDER = "imagenet"
SUFFIX = ".JPEG"
# n02105855_2933.JPEG is a PNG (TensorFlow's build_imagenet_data.py); some others are grey or CMYK.
FORMATS = ["JPEG", "PNG"]
SHORTER = 256 / 224  # the shorter side by the side of the crop, as where MAE's released code evaluates


@checked
def load(
    root: Path,
    *,
    wnids: list[str] | None = None,
    first: Annotated[int, "[1, 1000]"] | None = None,
    train_per_class: Annotated[int, "[1, 1300]"] = 120,
    test_per_class: Annotated[int, "[1, 50]"] = 50,
    size: Annotated[int, "[1, inf)"] = 224,
    names_sha256: str = "",
) -> Images:
    """The images as (N, 3, size, size), by wnid and then by file name; a class goes by its wnid.

    An image is resized by Pillow's bicubic filter, so that its shorter side has 256/224 of `size` pixels, and the
    middle is cut out, as MAE's released code evaluates. The default numbers of images are those with which I2I trains
    and tests on 100 + 100 classes; it draws them, and here they are the first of each class.

    root: holds imagenet/{train,val}/<wnid>/*.JPEG.
    wnids: WordNet identifiers of the classes to take; None takes all that have a folder in train.
    first: take so many of these classes, the first in the order of their wnids; None takes all.
    train_per_class, test_per_class: take so many images of each class, the first by file name.
    names_sha256: SHA-256 of the names of the images that are taken, such as train/n01440764/n01440764_10026.JPEG, in
        the order of their bytes and each with a newline after it; an empty text leaves them unchecked.
    Raises `DataError` for a folder that is missing, a class with too few images, an image that cannot be decoded, and
    for other names.
    """
    path = root / FOLDER
    mend = f"get its archives from {URL}, and put their images into {path / '{train,val}'}, one folder for each wnid"
    tree = jpegs.unpacked(path, SUFFIX, mend)
    if wnids is None:
        try:
            wnids = [name for name in os.listdir(path / "train") if _is_wnid(name)]
        except OSError as error:
            raise files.fault(path / "train", "a folder of classes", f"{error.strerror}", mend) from error
        if not wnids:
            raise files.fault(path / "train", "a folder for each class, such as n01440764", "none", mend)
    elif wrong := [wnid for wnid in wnids if not _is_wnid(wnid)]:  # a name from a file, which may be anybody's
        raise DataError(f"imagenet: a wnid is an n and eight digits, found {wrong[0]!r}")
    chosen = sorted(set(wnids))[:first]

    taken: dict[str, list[str]] = {}
    for split, count in (("train", train_per_class), ("val", test_per_class)):
        taken[split] = []
        for wnid in chosen:
            found = tree.names(f"{split}/{wnid}")
            if len(found) < count:
                raise files.fault(path / split / wnid, f"{count} images", f"{len(found)}", mend)
            taken[split] += [f"{split}/{wnid}/{name}" for name in found[:count]]
    names = sorted(name for listed in taken.values() for name in listed)
    sha256 = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    if names_sha256 not in ("", sha256):
        raise files.fault(path, f"names with sha256 {names_sha256}", f"{len(names)} with sha256 {sha256}", mend)

    splits = []
    for listed, count in zip(taken.values(), (train_per_class, test_per_class), strict=True):
        pixels = np.empty((len(listed), 3, size, size), dtype=np.uint8)
        # Pillow decodes without the interpreter lock, so threads do.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for index, image in enumerate(pool.map(lambda name: _decoded(tree, name, size), listed)):
                pixels[index] = image.transpose(2, 0, 1)
        splits.append((torch.from_numpy(pixels), torch.arange(len(chosen)).repeat_interleave(count)))
    return Images.of(tuple(chosen), train=splits[0], test=splits[1])


def _is_wnid(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name, re.ASCII) is not None


def _decoded(tree: jpegs.Tree, name: str, size: int) -> np.ndarray:
    """The middle of an image, `uint8` (size, size, 3)."""
    try:
        with Image.open(io.BytesIO(tree.read(name)), formats=FORMATS) as image:
            whole = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's words for what is no image
        fault = f"a file that cannot be decoded ({error})"
        raise files.fault(tree.path / name, "a JPEG", fault, tree.mend) from error
    # The longer side is rounded down, the edge of the crop to the nearest, as torchvision does both.
    wide, high = (int(int(size * SHORTER) * side / min(whole.size)) for side in whole.size)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    resized = whole.resize((wide, high), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
