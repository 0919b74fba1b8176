"""Tiny-ImageNet: 64x64 RGB photographs, 500 train and 50 test images of each of 200 classes, or of some of them.

Le, Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231N, 2015; images from ImageNet (Deng et al., CVPR
2009; Russakovsky et al., IJCV 2015). The copyright of the images stays with their owners; use is for non-commercial
research and education only.

The labels of the upstream test images were never published, so the val images are the test images here, as everywhere.
The archive has a checksum. An unpacked folder has none: what is checked there is the number of images of each class,
their size, and that they can be decoded. The files are JPEGs: a pixel, and so the digest, can differ by a grey level
between versions of libjpeg.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from palimpsest.data import DataError, Images
from palimpsest.data import _files as files
from palimpsest.ranges import checked

# MD5: of the archive as Stanford serves it, as in most public loaders; torchvision has no Tiny-ImageNet.
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
CLASS_COUNT = 200
PER_CLASS = (500, 50)
SIDE = 64
SUFFIX = ".JPEG"

# Twenty of the classes with all their images, in upstream layout: ten animals by hand, ten classes by seed.
PART_FOLDER = "tiny-imagenet-20"


@dataclass(frozen=True)
class _Tree:
    """The upstream folder, be it unpacked or a zip: paths within it are POSIX strings."""

    path: Path
    mend: str
    read: Callable[[str], bytes]
    names: Callable[[str], list[str]]  # a folder's JPEGs, sorted by name

    def lines(self, name: str) -> list[list[str]]:
        return [line.split("\t") for line in self.read(name).decode(errors="replace").splitlines() if line]


@checked
def load(root: Path, *, wnids: list[str] | None = None) -> Images:
    """Tiny-ImageNet as (N, 3, 64, 64); grey JPEGs become RGB. A label is the rank of the class among the sorted wnids.

    Train images are in `ImageFolder` order (by wnid, then by file name), test images in the order of
    val_annotations.txt. A class is named by its line of words.txt: all its synonyms.

    root: holds tiny-imagenet-200/ or tiny-imagenet-200.zip, which is read without unpacking it; where neither is, the
        archive is downloaded (237 MB), unless tiny-imagenet-20/ is there and has all `wnids`.
    wnids: WordNet identifiers of the classes to take; None takes all 200.
    Raises `DataError` for a file that cannot be had or decoded, an image that is not 64x64, a class that is not in the
    data set or has not 500 train and 50 test images.
    """
    tree = _open(root, wnids)
    known = [line[0] for line in tree.lines("wnids.txt")]
    if wnids is None and len(set(known)) != CLASS_COUNT:
        raise files.fault(tree.path / "wnids.txt", f"{CLASS_COUNT} classes", f"{len(set(known))}", tree.mend)
    chosen = sorted(set(known if wnids is None else wnids))
    if unknown := [wnid for wnid in chosen if wnid not in known]:
        raise DataError(
            f"tiny_imagenet: the wnids must be among those of {tree.path / 'wnids.txt'}, found {unknown[0]}"
        )

    rank = {wnid: label for label, wnid in enumerate(chosen)}
    words = {line[0]: line[-1] for line in tree.lines("words.txt")}
    if unnamed := [wnid for wnid in chosen if wnid not in words]:
        raise files.fault(tree.path / "words.txt", f"a line for {unnamed[0]}", "none", tree.mend)
    train = [(f"train/{wnid}/images/{name}", wnid) for wnid in chosen for name in tree.names(f"train/{wnid}/images")]
    there = set(tree.names("val/images"))
    annotations = [line[:2] for line in tree.lines("val/val_annotations.txt") if len(line) > 1]
    test = [(f"val/images/{name}", wnid) for name, wnid in annotations if wnid in rank and name in there]

    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    # Pillow decodes without the interpreter lock, so threads do.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for folder, listed, expected in (("train", train, PER_CLASS[0]), ("val", test, PER_CLASS[1])):
            found = Counter(wnid for _, wnid in listed)
            if wrong := [wnid for wnid in chosen if found[wnid] != expected]:
                expectation = f"{expected} images of {wrong[0]}"
                raise files.fault(tree.path / folder, expectation, f"{found[wrong[0]]}", tree.mend)
            pixels = np.empty((len(listed), 3, SIDE, SIDE), dtype=np.uint8)
            for index, image in enumerate(pool.map(lambda item: _decode(tree, item[0]), listed)):
                pixels[index] = image.transpose(2, 0, 1)
            labels = torch.tensor([rank[wnid] for _, wnid in listed], dtype=torch.int64)
            splits.append((torch.from_numpy(pixels), labels))
    return Images.of(tuple(words[wnid] for wnid in chosen), train=splits[0], test=splits[1])


def _open(root: Path, wnids: list[str] | None) -> _Tree:
    archive = root / Path(URL).name
    if not (root / FOLDER).is_dir() and not archive.exists() and wnids is not None and (root / PART_FOLDER).is_dir():
        part = _folder(root / PART_FOLDER)
        if set(wnids) <= {line[0] for line in part.lines("wnids.txt")}:
            return part
    if (root / FOLDER).is_dir():
        return _folder(root / FOLDER)
    files.fetch(archive, [URL], MD5)
    return _zip(archive)


def _folder(path: Path) -> _Tree:
    mend = f"delete {path}, then {files.get([URL], path.parent)}"

    def read(name: str) -> bytes:
        try:
            return (path / name).read_bytes()
        except OSError as error:
            raise files.fault(path / name, "a file", f"none that can be read ({error.strerror})", mend) from error

    def names(folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(path / folder) if name.endswith(SUFFIX))
        except OSError as error:
            raise files.fault(path / folder, "a folder of JPEGs", f"{error.strerror}", mend) from error

    return _Tree(path, mend, read, names)


def _zip(path: Path) -> _Tree:
    mend = f"delete it, then {files.get([URL], path.parent)}"
    # Opened from memory, so that what is read is what the checksum was taken of.
    archive = zipfile.ZipFile(io.BytesIO(files.read(path, MD5, mend)))
    folders: dict[str, list[str]] = defaultdict(list)
    for name in archive.namelist():
        member = PurePosixPath(name)
        if member.is_absolute() or ".." in member.parts or "\\" in name:
            raise files.fault(path, f"members within {FOLDER}", f"{name!r}, which leaves it", mend)
        if name.endswith(SUFFIX):
            folders[str(member.parent)].append(member.name)

    def read(name: str) -> bytes:
        try:
            return archive.read(f"{FOLDER}/{name}")
        except KeyError as error:
            raise files.fault(path, f"the member {FOLDER}/{name}", "none", mend) from error

    return _Tree(path, mend, read, lambda folder: sorted(folders[f"{FOLDER}/{folder}"]))


def _decode(tree: _Tree, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(tree.read(name)), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow's words for a file that is cut off or not an image
        raise files.fault(tree.path / name, "a JPEG", f"a file that cannot be decoded ({error})", tree.mend) from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise files.fault(tree.path / name, f"{SIDE}x{SIDE} pixels", f"{pixels.shape[1]}x{pixels.shape[0]}", tree.mend)
    return pixels
