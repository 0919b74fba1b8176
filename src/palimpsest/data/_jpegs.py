"""Data sets of JPEGs in folders, be the folder unpacked or a zip, which is read without unpacking it."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from palimpsest.data import _files as files


@dataclass(frozen=True)
class Tree:
    """The upstream folder: paths within it are POSIX strings. names: a folder's JPEGs, sorted by name."""

    path: Path
    mend: str
    read: Callable[[str], bytes]
    names: Callable[[str], list[str]]

    def pixels(self, names: Sequence[str], side: int, size: int | None = None) -> np.ndarray:
        """Return the images as RGB, `uint8` (N, 3, side, side), or resized to `size`; grey ones become RGB.

        Raises `DataError` for a file that cannot be decoded or is not side x side.
        """
        size = size or side
        found = np.empty((len(names), 3, size, size), dtype=np.uint8)
        # Pillow decodes without the interpreter lock, so threads do.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for index, image in enumerate(pool.map(lambda name: self._decoded(name, side, size), names)):
                found[index] = image.transpose(2, 0, 1)
        return found

    def _decoded(self, name: str, side: int, size: int) -> np.ndarray:
        path = self.path / name
        try:
            with Image.open(io.BytesIO(self.read(name)), formats=["JPEG"]) as image:
                if image.size != (side, side):
                    raise files.fault(path, f"{side}x{side} pixels", f"{image.width}x{image.height}", self.mend)
                whole = image.convert("RGB")
                return np.asarray(whole if size == side else whole.resize((size, size), Image.Resampling.BICUBIC))
        except (OSError, SyntaxError) as error:  # Pillow's words for a file that is cut off or not an image
            raise files.fault(path, "a JPEG", f"a file that cannot be decoded ({error})", self.mend) from error


def unpacked(path: Path, suffix: str, mend: str) -> Tree:
    """The folder `path`, whose JPEGs end in `suffix`."""

    def read(name: str) -> bytes:
        try:
            return (path / name).read_bytes()
        except OSError as error:
            raise files.fault(path / name, "a file", f"none that can be read ({error.strerror})", mend) from error

    def names(folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(path / folder) if name.endswith(suffix))
        except OSError as error:
            raise files.fault(path / folder, "a folder of JPEGs", f"{error.strerror}", mend) from error

    return Tree(path, mend, read, names)


def zipped(path: Path, folder: str, suffix: str, kind: str, checksum: str, mend: str) -> Tree:
    """The `folder` within the zip `path`, once its checksum, of a `kind` such as sha256, was found right."""
    stream = open(path, "rb")  # noqa: SIM115 - the tree reads from it; what is read is what the checksum was taken of
    found = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != checksum:
        raise files.fault(path, f"{kind} {checksum}", f"{kind} {found} in {path.stat().st_size} bytes", mend)
    archive = zipfile.ZipFile(stream)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in archive.namelist():
        member = PurePosixPath(name)
        if member.is_absolute() or ".." in member.parts or "\\" in name:
            raise files.fault(path, f"members within {folder}", f"{name!r}, which leaves it", mend)
        if name.endswith(suffix):
            folders[str(member.parent)].append(member.name)

    def read(name: str) -> bytes:
        try:
            return archive.read(f"{folder}/{name}")
        except KeyError as error:
            raise files.fault(path, f"the member {folder}/{name}", "none", mend) from error

    return Tree(path, mend, read, lambda inner: sorted(folders[f"{folder}/{inner}"]))
