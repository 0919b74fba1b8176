"""Images as every stage sees them: one `uint8` tensor a split, on the device as a whole.

Each file of this package is one data set and has one function, `load(root, *, ...) -> Images`.
Pixels stay integers until a network sees them, so that every epsilon is counted in grey levels
and a saved image is exactly the image that was attacked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from palimpsest import tensors


class DataError(Exception):
    """A data set cannot be had as asked; the message names the file, the fault and the mend."""


class Samples(NamedTuple):
    """Labelled samples on one device: `uint8` images (N, C, H, W), or floats (N, ...); and `int64` labels (N,)."""

    images: torch.Tensor
    labels: torch.Tensor


def pixels(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images as every network takes them: `uint8` levels become [0, 1], floats are there already."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    train_images, test_images: `uint8`, (N, C, H, W), grey levels 0 to 255.
    train_labels, test_labels: `int64`, (N,), from 0 to `len(classes)` - 1.
    classes: the classes' names in label order.
    The order of the images is the upstream order: metrics that take "the first n" depend on it.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != torch.uint8 or images.ndim != 4:
                raise DataError(
                    f"{split} images must be uint8 (N, C, H, W), found {images.dtype} {tuple(images.shape)}"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{split} labels must be int64 ({len(images)},), found {labels.dtype} {tuple(labels.shape)}"
                )
            if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.classes)):
                raise DataError(
                    f"{split} labels must lie in 0..{len(self.classes) - 1}, found {labels.min()}..{labels.max()}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 over shapes, pixels, labels and class names: the identity of the data."""
        hasher = hashlib.sha256(json.dumps(self.classes).encode())
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            tensor = getattr(self, name).cpu().contiguous()
            hasher.update(f"{name}{tuple(tensor.shape)}".encode())
            hasher.update(tensor.numpy().data)
        return hasher.hexdigest()

    def to(self, device: torch.device | str) -> Images:
        """The same images on `device`."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def stratified(
    images: Images, *, train_per_class: int | None = None, test_per_class: int | None = None, seed: int = 0
) -> Images:
    """The same data set with a fixed number of images of each class, drawn with `seed`, in upstream order.

    Raises `DataError` where a class has fewer images than asked for.
    """
    parts: dict[str, torch.Tensor] = {}
    for split, count in (("train", train_per_class), ("test", test_per_class)):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        if count is not None:
            generator = torch.Generator().manual_seed(seed)
            keep = []
            for label, name in enumerate(images.classes):
                members = (labels == label).nonzero().flatten()
                if len(members) < count:
                    raise DataError(f"class {name!r} has {len(members)} {split} images, {count} were asked for")
                keep.append(members[torch.randperm(len(members), generator=generator)[:count]])
            order = torch.cat(keep).sort().values
            pixels, labels = pixels[order], labels[order]
        parts[f"{split}_images"], parts[f"{split}_labels"] = pixels, labels
    return Images(classes=images.classes, **parts)


def save(images: Images, path: Path | str) -> None:
    """Write `images` as safetensors, class names and digest in its metadata."""
    parts = {name: getattr(images, name) for name in ("train_images", "train_labels", "test_images", "test_labels")}
    tensors.save(parts, path, {"classes": json.dumps(images.classes), "digest": images.digest})


def read(path: Path | str) -> Images:
    """Read what `save` wrote; `DataError` for a file that is broken or foreign."""
    with _opened(path) as file:
        classes = tuple(json.loads(file.metadata()["classes"]))
        return Images(classes=classes, **{name: file.get_tensor(name) for name in file.keys()})


def digest(path: Path | str) -> str:
    """The digest that `save` stored, without reading the pixels."""
    with _opened(path) as file:
        return str(file.metadata()["digest"])


def _opened(path: Path | str) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except Exception as error:  # safetensors raises its own untyped error
        raise DataError(f"{path} is not a readable data file ({error}); delete it and run again") from error
