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

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch

from palimpsest.data import DataError, Images
from palimpsest.data import _files as files
from palimpsest.data import _jpegs as jpegs
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


@checked
def load(
    root: Path,
    *,
    wnids: list[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    first: Annotated[int, "[1, 200]"] | None = None,
) -> Images:
    """Tiny-ImageNet as (N, 3, 64, 64); grey JPEGs become RGB. A label is the rank of the class among the sorted wnids,
    or of its group among the sorted groups.

    Train images are in `ImageFolder` order (by wnid, then by file name), test images in the order of
    val_annotations.txt. A class is named by its line of words.txt: all its synonyms.

    root: holds tiny-imagenet-200/ or tiny-imagenet-200.zip, which is read without unpacking it; where neither is, the
        archive is downloaded (237 MB), unless tiny-imagenet-20/ is there and has all `wnids`.
    wnids: WordNet identifiers of the classes to take; None takes all 200.
    first: take so many of these classes, the first in the order of their wnids; None takes all.
    groups: instead, by the name of a class, the wnids that make it up; a class is as large as its number of wnids.
    Raises `DataError` for a file that cannot be had or decoded, an image that is not 64x64, a class that is not in the
    data set or has not 500 train and 50 test images, and for groups that share a wnid.
    """
    if groups is not None:
        if wnids is not None or first is not None:
            raise DataError("tiny_imagenet: wnids or first cannot be given with groups, which names its wnids")
        wnids = [wnid for members in groups.values() for wnid in members]
        if shared := [wnid for wnid, count in Counter(wnids).items() if count > 1]:
            raise DataError(f"tiny_imagenet: a wnid belongs to one group, found {shared[0]} more than once")
    tree = _open(root, wnids)
    known = [line[0] for line in _lines(tree, "wnids.txt")]
    if wnids is None and len(set(known)) != CLASS_COUNT:
        raise files.fault(tree.path / "wnids.txt", f"{CLASS_COUNT} classes", f"{len(set(known))}", tree.mend)
    chosen = sorted(set(known if wnids is None else wnids))[:first]
    if unknown := [wnid for wnid in chosen if wnid not in known]:
        raise DataError(
            f"tiny_imagenet: the wnids must be among those of {tree.path / 'wnids.txt'}, found {unknown[0]}"
        )

    words = {line[0]: line[-1] for line in _lines(tree, "words.txt")}
    if unnamed := [wnid for wnid in chosen if wnid not in words]:
        raise files.fault(tree.path / "words.txt", f"a line for {unnamed[0]}", "none", tree.mend)
    named = groups or {wnid: [wnid] for wnid in chosen}
    rank = {wnid: label for label, name in enumerate(sorted(named)) for wnid in named[name]}
    train = [(f"train/{wnid}/images/{name}", wnid) for wnid in chosen for name in tree.names(f"train/{wnid}/images")]
    there = set(tree.names("val/images"))
    annotations = [line[:2] for line in _lines(tree, "val/val_annotations.txt") if len(line) > 1]
    test = [(f"val/images/{name}", wnid) for name, wnid in annotations if wnid in rank and name in there]

    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for folder, listed, expected in (("train", train, PER_CLASS[0]), ("val", test, PER_CLASS[1])):
        found = Counter(wnid for _, wnid in listed)
        if wrong := [wnid for wnid in chosen if found[wnid] != expected]:
            expectation = f"{expected} images of {wrong[0]}"
            raise files.fault(tree.path / folder, expectation, f"{found[wrong[0]]}", tree.mend)
        pixels = torch.from_numpy(tree.pixels([name for name, _ in listed], SIDE))
        labels = torch.tensor([rank[wnid] for _, wnid in listed], dtype=torch.int64)
        splits.append((pixels, labels))
    classes = sorted(named) if groups else [words[wnid] for wnid in chosen]
    return Images.of(tuple(classes), train=splits[0], test=splits[1])


def _open(root: Path, wnids: list[str] | None) -> jpegs.Tree:
    archive = root / Path(URL).name
    if not (root / FOLDER).is_dir() and not archive.exists() and wnids is not None and (root / PART_FOLDER).is_dir():
        part = _folder(root / PART_FOLDER)
        if set(wnids) <= {line[0] for line in _lines(part, "wnids.txt")}:
            return part
    if (root / FOLDER).is_dir():
        return _folder(root / FOLDER)
    files.fetch(archive, [URL], MD5)
    return jpegs.zipped(archive, FOLDER, SUFFIX, "md5", MD5, f"delete it, then {files.get([URL], root)}")


def _folder(path: Path) -> jpegs.Tree:
    return jpegs.unpacked(path, SUFFIX, f"delete {path}, then {files.get([URL], path.parent)}")


def _lines(tree: jpegs.Tree, name: str) -> list[list[str]]:
    return [line.split("\t") for line in tree.read(name).decode(errors="replace").splitlines() if line]
