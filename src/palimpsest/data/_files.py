"""What the loaders share: a file is fetched once, checked before it is read, and opened without trusting it.

Files that a user put into the root are only read: nothing is unpacked beside them, and a damaged one is named, never
replaced. Only an absent file is downloaded, under a temporary name that becomes the real one once its checksum is
right, so that a second job on the same root sees a whole file or none.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import pickle
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from palimpsest.data import DataError, Images

# torchvision's request has no timeout of its own; behind a firewall that drops packets it would wait for ever.
TIMEOUT_SECONDS = 60.0


def get(urls: Sequence[str], folder: Path) -> str:
    """Return, as a clause, what to do about a missing file: where it comes from and where it goes."""
    return f"get it from {' or '.join(urls)} and put it in {folder}"


def fault(path: Path, expected: str, found: str, mend: str) -> DataError:
    """Return the error whose one sentence every loader fails with."""
    return DataError(f"{path}: expected {expected}, found {found}; {mend}")


def checked(data: bytes, path: Path, md5: str, mend: str) -> bytes:
    """`data` as it is, or `DataError` when its MD5 is not `md5`."""
    found = _md5(data)
    if found != md5:
        raise fault(path, f"md5 {md5}", f"md5 {found} in {len(data)} bytes", mend)
    return data


def read(path: Path, md5: str, mend: str) -> bytes:
    """The bytes of `path`, or `DataError` when it cannot be read or its MD5 is not `md5`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise fault(path, f"a file with md5 {md5}", f"none that can be read ({error.strerror})", mend) from error
    return checked(data, path, md5, mend)


def fetch(path: Path, urls: Sequence[str], md5: str) -> None:
    """Download `path` from the first of `urls` that gives a file with this MD5; a file that is there is left alone.

    Raises `DataError` when no URL gives it; `path` is then absent, as before.
    """
    if path.exists():
        return
    failures = []
    for url in urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
                fresh = Path(folder, path.name)
                _download(url, fresh)
                found = _md5(fresh.read_bytes())
                if found == md5:
                    os.replace(fresh, path)
                    return
                failures.append(f"md5 {found} from {url}")
        except (OSError, RuntimeError, HTTPException) as error:
            failures.append(f"{error} from {url}")
    found = f"none, and its download gave {' and '.join(failures)}"
    raise fault(path, f"a file with md5 {md5}", found, get(urls, path.parent))


def _md5(data: bytes) -> str:
    # Not for security: it is the sum that upstream publishes. The flag lets it run where FIPS forbids MD5.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _download(url: str, path: Path) -> None:
    # Imported here because it costs two seconds that nobody whose files are in place should pay.
    from torchvision.datasets.utils import download_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        download_url(url, str(path.parent), path.name)
    finally:
        socket.setdefaulttimeout(before)


def members(root: Path, folder: str, archive: str, md5s: Mapping[str, str], url: str, md5: str) -> dict[str, bytes]:
    """The files of an upstream `.tar.gz`, by name, each with its MD5 checked: from `root`/`folder`, or the archive.

    md5s: the MD5 of each wanted member, by its name within `folder`.
    url, md5: of the archive, which is downloaded where neither it nor the folder is in `root`.
    The archive is read without unpacking; one with a member that would leave the folder is refused.
    Raises `DataError` for a member missing or damaged.
    """
    if (root / folder).is_dir():
        mend = f"delete {root / folder}, then get {url} and put it in {root}"
        return {name: read(root / folder / name, member_md5, mend) for name, member_md5 in md5s.items()}
    path = root / archive
    mend = f"delete it, then {get([url], root)}"
    fetch(path, [url], md5)
    wanted = {f"{folder}/{name}": name for name in md5s}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                tarfile.data_filter(member, str(root))
                if member.name in wanted and member.isreg():
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular member always has one
                    name = wanted[member.name]
                    found[name] = checked(stream.read(), path / member.name, md5s[name], mend)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise fault(path, f"the archive with md5 {md5}", f"one that cannot be read ({error})", mend) from error
    if missing := [name for name in md5s if name not in found]:
        raise fault(path, f"the members {', '.join(md5s)}", f"no {', '.join(missing)}", mend)
    return found


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, strings, numbers and NumPy arrays; any other global is refused before it is called."""

    # The function behind a pickled array lives under numpy.core or numpy._core, depending on who wrote the file.
    _RECONSTRUCT: ClassVar[Any] = np.empty(0).__reduce__()[0]
    _ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"the global {module}.{name}")
        return self._ADMITTED[module, name]


def unpickle(data: bytes, path: Path, mend: str) -> dict[str, Any]:
    """A CIFAR pickle (Python 2, protocol 2) whose checksum was found right, as a dict with `str` keys.

    The checksum is what makes a pickle safe to open; that nothing but arrays and plain values can be built is the
    second lock. Raises `DataError` for any other global and for a pickle that breaks off.
    """
    try:
        # latin1 is how Python 3 reads arrays that Python 2 pickled; it is torchvision's choice too.
        return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise fault(path, "a pickle of arrays and plain values", str(error), mend) from error


def counted(images: Images, counts: tuple[int, int], path: Path, mend: str) -> Images:
    """`images` as they are, or `DataError` when the numbers of train and test images are not `counts`."""
    found = (len(images.train_labels), len(images.test_labels))
    if found != counts:
        raise fault(path, f"{counts[0]} train and {counts[1]} test images", f"{found[0]} and {found[1]}", mend)
    return images


def idx_images(
    folder: Path,
    md5s: Mapping[str, tuple[str, str]],
    mirrors: Sequence[str],
    counts: tuple[int, int],
    classes: tuple[str, ...],
) -> Images:
    """A data set of four IDX files, as MNIST laid them out: {train,t10k}-{images-idx3,labels-idx1}-ubyte.

    folder: where they lie, as `.gz` or unpacked; what is absent in both forms is downloaded as `.gz`.
    md5s: for each name without `.gz`, the MD5 of the `.gz` and of the unpacked file.
    mirrors: the URLs of folders that hold the `.gz` files.
    counts: the number of train and test images.
    Returns (N, 1, H, W) images in upstream order; raises `DataError` for a file missing, damaged or of another size.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, (packed_md5, plain_md5) in md5s.items():
        path, packed = folder / name, folder / f"{name}.gz"
        urls = [mirror + packed.name for mirror in mirrors]
        mend = f"delete it, then {get(urls, folder)}"
        if path.exists() and not packed.exists():
            data = read(path, plain_md5, mend)
        else:
            fetch(packed, urls, packed_md5)
            data = gzip.decompress(read(packed, packed_md5, mend))
        arrays[name] = _idx(data, 3 if "images" in name else 1, path, mend)
    mend = f"delete its files, then get them from {' or '.join(mirrors)} and put them in {folder}"
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for split in ("train", "t10k"):
        pixels, labels = arrays[f"{split}-images-idx3-ubyte"], arrays[f"{split}-labels-idx1-ubyte"]
        if len(pixels) != len(labels):
            raise fault(folder, f"as many {split} labels as images ({len(pixels)})", f"{len(labels)}", mend)
        splits.append((torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long()))
    return counted(Images.of(classes, train=splits[0], test=splits[1]), counts, folder, mend)


def _idx(data: bytes, ndim: int, path: Path, mend: str) -> np.ndarray:
    # IDX: two zero bytes, the type (8 is uint8), the number of axes, each axis as a big-endian int32, then the values.
    # http://yann.lecun.com/exdb/mnist/
    start = 4 + 4 * ndim
    if len(data) < start or data[:4] != bytes((0, 0, 8, ndim)):
        raise fault(path, f"an IDX header of {ndim} axes of uint8", data[:4].hex(" ") or "an empty file", mend)
    shape = np.frombuffer(data, ">i4", ndim, 4).tolist()
    if math.prod(shape) != len(data) - start:
        raise fault(path, f"{math.prod(shape)} bytes after the header", f"{len(data) - start}", mend)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a buffer is read-only, torch warns
