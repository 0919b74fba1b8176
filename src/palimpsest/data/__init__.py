"""Data as every stage sees it: labelled samples in named splits, each split on the device as a whole.

Each file of this package is one data set and has one function, `load(root, *, ...) -> Images`.
Pixels stay integers until a network sees them, so that every epsilon is counted in grey levels
and a saved image is exactly the image that was attacked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class DataError(Exception):
    """A data set cannot be had as requested; the message names the file, the fault and what to do."""


class Samples(NamedTuple):
    """Labelled samples on one device: `uint8` images (N, C, H, W), or floats (N, ...); and `int64` labels (N,)."""

    images: torch.Tensor
    labels: torch.Tensor


def pixels(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images as every network takes them: `uint8` levels become [0, 1], floats are there already."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def replaced(samples: Samples, indices: torch.Tensor, replacement: Samples) -> Samples:
    """`samples` with those at `indices`, `int64` (n,) in any order, replaced; float where either is float."""
    if samples.images.dtype != replacement.images.dtype:
        samples, replacement = (Samples(pixels(some.images), some.labels) for some in (samples, replacement))
    there = indices.to(samples.labels.device)
    images, labels = (old.index_copy(0, there, new.to(old)) for old, new in zip(samples, replacement, strict=True))
    return Samples(images, labels)


def together(*parts: Samples) -> Samples:
    """All samples of the parts in one, float where any of them are."""
    if len({part.images.dtype for part in parts}) > 1:
        parts = tuple(Samples(pixels(part.images), part.labels) for part in parts)
    return Samples(*map(torch.cat, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    splits: labelled samples by name, `train` and `test` among them; others may hold what was kept from training.
    All are of one kind: `uint8` images (N, C, H, W), grey levels 0 to 255, or finite `float32` features (N, D).
    Labels are `int64`, (N,), from 0 to `len(classes)` - 1. classes: the classes' names in label order.
    The order of the samples is the upstream order: metrics that take "the first n" depend on it.
    """

    splits: Mapping[str, Samples]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if missing := {"train", "test"} - self.splits.keys():
            raise DataError(f"a data set needs the splits train and test, found no {' and no '.join(sorted(missing))}")
        shape = self.train_images.shape[1:]
        for split, (images, labels) in self.splits.items():
            found = f"found {images.dtype} {tuple(images.shape)}"
            if (images.dtype, images.ndim) not in ((torch.uint8, 4), (torch.float32, 2)):
                raise DataError(f"{split} samples must be uint8 (N, C, H, W) or float32 (N, D), {found}")
            if images.shape[1:] != shape or images.dtype != self.train_images.dtype:
                raise DataError(
                    f"{split} samples must be {self.train_images.dtype} (N, {str(tuple(shape))[1:]}, {found}"
                )
            if images.is_floating_point() and not images.isfinite().all():
                raise DataError(
                    f"{split} features must be finite, found {int((~images.isfinite()).sum())} that are not"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{split} labels must be int64 ({len(images)},), found {labels.dtype} {tuple(labels.shape)}"
                )
            if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.classes)):
                raise DataError(
                    f"{split} labels must lie in 0..{len(self.classes) - 1}, found {labels.min()}..{labels.max()}"
                )

    @classmethod
    def of(cls, classes: tuple[str, ...], **splits: tuple[torch.Tensor, torch.Tensor]) -> Images:
        """A data set from pairs of images and labels: `Images.of(names, train=(…, …), test=(…, …))`."""
        return cls({name: Samples(*split) for name, split in splits.items()}, classes)

    @property
    def train_images(self) -> torch.Tensor:
        return self.splits["train"].images

    @property
    def train_labels(self) -> torch.Tensor:
        return self.splits["train"].labels

    @property
    def test_images(self) -> torch.Tensor:
        return self.splits["test"].images

    @property
    def test_labels(self) -> torch.Tensor:
        return self.splits["test"].labels

    @property
    def held_back(self) -> dict[str, Samples]:
        """The splits that are neither trained on nor tested on, by name."""
        return {name: split for name, split in self.splits.items() if name not in ("train", "test")}

    @property
    def kind(self) -> Literal["images", "features"]:
        """What the samples are; features have no pixels, so no range and no grey levels."""
        return "images" if self.train_images.dtype == torch.uint8 else "features"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, pixels, labels and class names: the identity of the data."""
        hasher = hashlib.sha256(json.dumps(self.classes).encode())
        for split in ("train", "test", *sorted(self.held_back)):
            for name, tensor in zip(Samples._fields, self.splits[split], strict=True):
                hasher.update(f"{split}_{name}{tuple(tensor.shape)}".encode())
                hasher.update(tensor.cpu().contiguous().numpy().data)
        return hasher.hexdigest()

    def to(self, device: torch.device | str) -> Images:
        """The same samples on `device`."""
        return replace(
            self, splits={name: Samples(*(part.to(device) for part in split)) for name, split in self.splits.items()}
        )


def stratified(
    images: Images, *, train_per_class: int | None = None, test_per_class: int | None = None, seed: int = 0
) -> Images:
    """The same data set with a fixed number of images of each class, drawn with `seed`, in upstream order.

    Raises `DataError` where a class has fewer images than asked for.
    """
    parts = dict(images.splits)
    for split, count in (("train", train_per_class), ("test", test_per_class)):
        if count is None:
            continue
        generator = torch.Generator().manual_seed(seed)
        keep = []
        for label, name in enumerate(images.classes):
            members = (parts[split].labels == label).nonzero().flatten()
            if len(members) < count:
                raise DataError(f"class {name!r} has {len(members)} {split} images, {count} were asked for")
            keep.append(members[torch.randperm(len(members), generator=generator)[:count]])
        order = torch.cat(keep).sort().values
        parts[split] = Samples(*(part[order] for part in parts[split]))
    return replace(images, splits=parts)


def hold_back(images: Images, parts: Mapping[str, float | Sequence[int]], seed: int = 0) -> Images:
    """The same data set with parts of it in splits of their own, which no training sees.

    parts: by the name of the new split, either the share of each class of the training set, drawn with `seed` and
    rounded to whole samples, `{"backup": 0.2}`; or classes, whose samples leave training and test set, and whose test
    samples make the split, `{"held_out": [7, 9]}`. Every split keeps the upstream order. Raises `DataError` for a name
    that is taken, for a class that is not there, and where a class would have no sample in one of the new splits or in
    what is left to train on.
    """
    if taken := sorted(name for name in parts if name in images.splits or not name.isidentifier()):
        raise DataError(f"hold_back: a split cannot be called {taken[0]!r}; there are {', '.join(images.splits)}")
    for name, classes in parts.items():
        if not isinstance(classes, float | int):
            images = _without(images, name, classes)
    shares = {name: share for name, share in parts.items() if isinstance(share, float | int)}
    return _shared_out(images, shares, seed) if shares else images


def _without(images: Images, name: str, classes: Sequence[int]) -> Images:
    """The data set without some classes, whose test samples stand in a split of this name."""
    gone = torch.tensor([*classes], dtype=torch.int64)
    whole = {split: images.splits[split] for split in ("train", "test")}
    if missing := sorted(set(classes) - set(images.train_labels.tolist())):
        raise DataError(f"hold_back: the training set has no class {missing[0]}")
    away = {split: torch.isin(samples.labels, gone) for split, samples in whole.items()}
    made = {split: Samples(*(part[~away[split]] for part in samples)) for split, samples in whole.items()}
    made[name] = Samples(*(part[away["test"]] for part in whole["test"]))
    return replace(images, splits={**images.splits, **made})


def _shared_out(images: Images, shares: Mapping[str, float], seed: int) -> Images:
    """The data set with shares of its training set in splits of their own."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, list[torch.Tensor]] = {name: [] for name in (*shares, "train")}
    for label, name in enumerate(images.classes):
        members = (images.train_labels == label).nonzero().flatten()
        if not len(members):  # of a class that is held back whole
            continue
        members = members[torch.randperm(len(members), generator=generator)]
        counts = [round(share * len(members)) for share in shares.values()]
        counts.append(len(members) - sum(counts))
        if min(counts) < 1:
            raise DataError(
                f"hold_back: shares of {', '.join(map(str, shares.values()))} of the {len(members)} training samples "
                f"of class {name!r} must leave at least one in each split and one to train on"
            )
        for parts, part in zip(drawn.values(), members.split(counts), strict=True):
            parts.append(part)
    order = {split: torch.cat(parts).sort().values for split, parts in drawn.items()}
    made = {split: Samples(*(part[index] for part in images.splits["train"])) for split, index in order.items()}
    return replace(images, splits={**images.splits, **made})


def save(images: Images, path: Path | str) -> None:
    """Write `images` as safetensors, `{split}/images` and `{split}/labels`; class names and digest in its header."""
    parts = {
        f"{split}/{name}": tensor.cpu().contiguous()
        for split, samples in images.splits.items()
        for name, tensor in samples._asdict().items()
    }
    # One key: safetensors writes several in an order that changes from call to call, and so the file's hash.
    about = {"classes": images.classes, "digest": images.digest}
    save_file(parts, str(path), {"about": json.dumps(about)})


def read(path: Path | str) -> Images:
    """Read what `save` wrote; `DataError` for a file that is broken or foreign."""
    file, about = _opened(path)
    names = {name.partition("/")[0] for name in file.keys()}
    return Images(
        {split: Samples(*(file.get_tensor(f"{split}/{name}") for name in Samples._fields)) for split in sorted(names)},
        tuple(about["classes"]),
    )


def digest(path: Path | str) -> str:
    """The digest that `save` stored, without reading the pixels."""
    return str(_opened(path)[1]["digest"])


def _opened(path: Path | str) -> tuple[Any, dict[str, Any]]:
    try:
        file = safe_open(str(path), framework="pt")
        return file, json.loads(file.metadata()["about"])
    except Exception as error:  # safetensors raises its own untyped error
        raise DataError(f"{path} is not a readable data file ({error}); delete it and run again") from error
