"""The loaders, each against files that the test makes in the upstream format; the real files where they are present."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from sklearn.datasets import load_digits

from palimpsest.data import (
    DataError,
    Images,
    Samples,
    afhq,
    cifar10,
    cifar100,
    digit_pairs,
    digits,
    dogfish,
    fashion_mnist,
    hold_back,
    mnist,
    pixels,
    read,
    replaced,
    save,
    stratified,
    svhn,
    tiny_imagenet,
)
from palimpsest.data import _files as files
from palimpsest.data import digest as digest_of
from palimpsest.pipeline.configuration import load as load_config

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("PALIMPSEST_DATA", REPOSITORY / "data"))
DOWNLOAD = files._download


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: Path) -> None:
        raise URLError("no network in this test")

    monkeypatch.setattr(files, "_download", refuse)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# Files in upstream's formats


@dataclass
class Made:
    """A data set on disk: how to load it, what it should give, and one of its files to damage."""

    load: Callable[[], Images]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    file: Path
    md5: str
    url: str

    @property
    def message_parts(self) -> tuple[str, ...]:
        return self.file.name, self.md5, self.url, str(self.file.parent)


def make_idx(module, folder: str, root: Path, monkeypatch: pytest.MonkeyPatch, packed: bool = True) -> Made:
    rng = np.random.default_rng(1)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(30, dtype=np.uint8)[::-1] % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    }
    md5s = {}
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, array in arrays.items():
        plain = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
        gz = gzip.compress(plain)
        md5s[name] = (md5(gz), md5(plain))
        (raw / f"{name}.gz" if packed else raw / name).write_bytes(gz if packed else plain)
    monkeypatch.setattr(module, "MD5S", md5s)
    monkeypatch.setattr(module, "COUNTS", (30, 20))
    name = "train-images-idx3-ubyte"
    train, train_labels, test, test_labels = arrays.values()
    return Made(
        partial(module.load, root),
        train[:, None],
        train_labels,
        test[:, None],
        test_labels,
        raw / f"{name}.gz" if packed else raw / name,
        md5s[name][0] if packed else md5s[name][1],
        f"{module.MIRRORS[0]}{name}.gz",
    )


def make_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    rng = np.random.default_rng(2)
    md5s, splits = {}, []
    for name, count in (("train_32x32.mat", 24), ("test_32x32.mat", 12)):
        images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        upstream_labels = (np.arange(count) % 10 + 1).astype(np.uint8)
        variables = {"X": images.transpose(2, 3, 1, 0), "y": upstream_labels[:, None]}
        savemat(root / name, variables, do_compression=True)
        md5s[name] = md5((root / name).read_bytes())
        splits += [images, np.where(upstream_labels == 10, 0, upstream_labels)]
    monkeypatch.setattr(svhn, "MD5S", md5s)
    monkeypatch.setattr(svhn, "COUNTS", (24, 12))
    name = "test_32x32.mat"
    return Made(partial(svhn.load, root), *splits, root / name, md5s[name], svhn.URL + name)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and its NumPy wrote: byte strings for every text, the old name of NumPy's core."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, text) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, obj, name=None) -> None:
        if getattr(obj, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write_cifar(root: Path, module, folder: str, pickles: dict[str, bytes], archived: bool) -> None:
    if not archived:
        (root / folder).mkdir(parents=True)
        for name, data in pickles.items():
            (root / folder / name).write_bytes(data)
        return
    with tarfile.open(root / Path(module.URL).name, "w:gz") as tar:
        for name, data in pickles.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def make_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, archived: bool = False) -> Made:
    rng = np.random.default_rng(3)
    pickles, images, labels = {}, {}, {}
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        images[name] = rng.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
        labels[name] = rng.permutation(20) % 10
        pickles[name] = python2_pickle(
            {
                "batch_label": name,
                "labels": labels[name].tolist(),
                "data": images[name].reshape(20, 3072),
                "filenames": [f"{name}_{index}.png" for index in range(20)],
            }
        )
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pickles["batches.meta"] = python2_pickle({"label_names": names, "num_vis": 3072})
    monkeypatch.setattr(cifar10, "MD5S", {name: md5(data) for name, data in pickles.items()})
    monkeypatch.setattr(cifar10, "COUNTS", (100, 20))
    write_cifar(root, cifar10, "cifar-10-batches-py", pickles, archived)
    train = sorted(images)[:5]
    return Made(
        partial(cifar10.load, root),
        np.concatenate([images[name] for name in train]),
        np.concatenate([labels[name] for name in train]),
        images["test_batch"],
        labels["test_batch"],
        root / "cifar-10-batches-py" / "data_batch_3",
        md5(pickles["data_batch_3"]),
        cifar10.URL,
    )


CIFAR100_SIZES = {"train": 130, "test": 35}  # of each of ten classes: more than the rule draws, less than upstream


def cifar100_batch(split: str) -> dict:
    rng = np.random.default_rng(len(split))
    count = 10 * CIFAR100_SIZES[split]
    labels = rng.permutation(count) % 10
    numbers = rng.permutation(count)
    return {
        "filenames": [f"noun{label}_s_{number:06d}.png" for label, number in zip(labels, numbers, strict=True)],
        "batch_label": f"{split}ing batch 1 of 1",
        "fine_labels": labels.tolist(),
        "coarse_labels": (labels // 5).tolist(),
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
    }


def make_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, archived: bool = False) -> Made:
    batches = {split: cifar100_batch(split) for split in ("train", "test")}
    pickles = {split: python2_pickle(batch) for split, batch in batches.items()}
    pickles["meta"] = python2_pickle({"fine_label_names": [f"noun{label}" for label in range(10)]})
    monkeypatch.setattr(cifar100, "MD5S", {name: md5(data) for name, data in pickles.items()})
    monkeypatch.setattr(cifar100, "COUNTS", (1300, 350))
    write_cifar(root, cifar100, "cifar-100-python", pickles, archived)
    return Made(
        partial(cifar100.load, root),
        batches["train"]["data"].reshape(-1, 3, 32, 32),
        np.array(batches["train"]["fine_labels"]),
        batches["test"]["data"].reshape(-1, 3, 32, 32),
        np.array(batches["test"]["fine_labels"]),
        root / "cifar-100-python" / "train",
        md5(pickles["train"]),
        cifar100.URL,
    )


def cifar100_part() -> dict[str, dict]:
    """The subset rule, word for word from its description, on the made batches."""
    generator = random.Random(0)
    part = {}
    for split, drawn, kept in (("train", 120, 50), ("test", 30, 12)):
        batch = cifar100_batch(split)
        row_of = {name: row for row, name in enumerate(batch["filenames"])}
        class_of = dict(zip(batch["filenames"], batch["fine_labels"], strict=True))
        picked = []
        for label in range(10):
            picked.extend(generator.sample(sorted(name for name in class_of if class_of[name] == label), drawn))
        generator.shuffle(picked)
        first = [
            name for at, name in enumerate(picked) if [class_of[n] for n in picked[:at]].count(class_of[name]) < kept
        ]
        part[split] = {
            "filenames": first,
            "batch_label": "subset",
            "fine_labels": [class_of[name] for name in first],
            "coarse_labels": [class_of[name] // 5 for name in first],
            "data": batch["data"][[row_of[name] for name in first]],
        }
    return part


def make_cifar100_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    part = cifar100_part()
    # Written by Python 3, as the real pre-cut files are.
    pickles = {split: pickle.dumps(batch, protocol=4) for split, batch in part.items()}
    pickles["meta"] = python2_pickle({"fine_label_names": [f"noun{label}" for label in range(10)]})
    monkeypatch.setattr(cifar100, "PART_MD5S", {name: md5(data) for name, data in pickles.items()})
    write_cifar(root, cifar100, "cifar-100-python-subset", pickles, archived=False)
    return part


WNIDS = ["n03000000", "n01000000", "n02000000"]  # upstream's wnids.txt is not sorted either


def jpeg(mode: str, seed: int, side: int = 64) -> bytes:
    shape = (side, side) if mode == "L" else (side, side, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def make_tiny(
    root: Path, monkeypatch: pytest.MonkeyPatch, folder: str = "tiny-imagenet-200", zipped: bool = False
) -> Made:
    """Three classes of eleven train and two val images; the second train image of each class is grey."""
    members: dict[str, bytes] = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n"}
    members["words.txt"] = "\n".join(
        ["n00000000\tnot here"] + [f"{wnid}\tname {wnid}, alias" for wnid in WNIDS]
    ).encode()
    for at, wnid in enumerate(WNIDS):
        members[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        for number in range(11):
            data = jpeg("L" if number == 1 else "RGB", 100 * at + number)
            members[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = data
    annotations = []
    for number, wnid in enumerate(WNIDS[1:] + WNIDS[:1] + WNIDS):
        members[f"val/images/val_{number}.JPEG"] = jpeg("RGB", 1000 + number)
        annotations.append((f"val_{number}.JPEG", wnid))
    members["val/val_annotations.txt"] = "".join(f"{name}\t{wnid}\t0\t0\t9\t9\n" for name, wnid in annotations).encode()
    monkeypatch.setattr(tiny_imagenet, "CLASS_COUNT", 3)
    monkeypatch.setattr(tiny_imagenet, "PER_CLASS", (11, 2))

    archive = root / "tiny-imagenet-200.zip"
    if zipped:
        with zipfile.ZipFile(archive, "w") as file:
            for name, data in members.items():
                file.writestr(f"tiny-imagenet-200/{name}", data)
        monkeypatch.setattr(tiny_imagenet, "MD5", md5(archive.read_bytes()))
    else:
        for name, data in members.items():
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(data)

    ranked = sorted(WNIDS)
    lexicographic = [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    train = [(f"train/{wnid}/images/{wnid}_{number}.JPEG", wnid) for wnid in ranked for number in lexicographic]
    test = [(f"val/images/{name}", wnid) for name, wnid in annotations]
    return Made(
        partial(tiny_imagenet.load, root),
        np.stack([pixels_of(members[name]) for name, _ in train]),
        np.array([ranked.index(wnid) for _, wnid in train]),
        np.stack([pixels_of(members[name]) for name, _ in test]),
        np.array([ranked.index(wnid) for _, wnid in test]),
        archive,
        tiny_imagenet.MD5,
        tiny_imagenet.URL,
    )


def make_afhq(root: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool = False) -> Made:
    """Three cats, two dogs and one wild animal to train on, one of each to test."""
    monkeypatch.setattr(afhq, "COUNTS", {"train": (3, 2, 1), "val": (1, 1, 1)})
    monkeypatch.setattr(afhq, "SIDE", 16)
    members = {
        f"{split}/{name}/{source}_{name}_{number:06d}.jpg": jpeg("RGB", 10 * at + number, side=16)
        for split, counts in afhq.COUNTS.items()
        for at, (name, count) in enumerate(zip(afhq.CLASSES, counts, strict=True), len(split))
        for number, source in enumerate(("pixabay", "flickr", "flickr")[:count])
    }
    archive = root / "afhq.zip"
    if zipped:
        with zipfile.ZipFile(archive, "w") as file:
            for name, data in members.items():
                file.writestr(f"afhq/{name}", data)
        monkeypatch.setattr(afhq, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    else:
        for name, data in members.items():
            (root / "afhq" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "afhq" / name).write_bytes(data)
    train, test = (
        [pixels_of(members[name]) for name in sorted(members) if name.startswith(s)] for s in ("train", "val")
    )
    return Made(
        partial(afhq.load, root, size=16),
        np.stack(train),
        np.array([0, 0, 0, 1, 1, 2]),
        np.stack(test),
        np.array([0, 1, 2]),
        archive,
        afhq.SHA256,
        afhq.URL,
    )


def make_dogfish(root: Path, monkeypatch: pytest.MonkeyPatch, source: str = "imagenette") -> Made:
    """Features of three training and two test samples; the original's labels are floats, and its sums are given."""
    place = dogfish.SOURCES[source]._replace(width=5)
    (root / place.folder).mkdir()
    arrays, sums = {}, {}
    for at, (split, count) in enumerate((("train", 3), ("test", 2))):
        features = np.random.default_rng(at).random((count, 5)).astype(np.float16)
        labels = np.arange(count) % 2
        arrays[split] = features.astype(np.float32), labels
        path = root / place.folder / place.file.format(split)
        np.savez(path, **{place.key: features, "labels": labels * (1.0 if source == "inception" else 1)})
        sums[split] = md5(path.read_bytes())
    given = {} if place.md5s else {"md5s": [*sums.values()]}
    if place.md5s:
        place = place._replace(md5s=(*sums.values(),))
    monkeypatch.setitem(dogfish.SOURCES, source, place)
    monkeypatch.setattr(dogfish, "COUNTS", (3, 2))
    return Made(
        partial(dogfish.load, root, source=source, **given),
        *arrays["train"],
        *arrays["test"],
        root / place.folder / place.file.format("train"),
        sums["train"],
        place.url,
    )


MAKERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Made]] = {
    "mnist": partial(make_idx, mnist, "MNIST"),
    "fashion_mnist": partial(make_idx, fashion_mnist, "FashionMNIST"),
    "mnist_unpacked": partial(make_idx, mnist, "MNIST", packed=False),
    "svhn": make_svhn,
    "cifar10": make_cifar10,
    "cifar10_archive": partial(make_cifar10, archived=True),
    "cifar100": make_cifar100,
    "cifar100_archive": partial(make_cifar100, archived=True),
    "tiny_imagenet": make_tiny,
    "tiny_imagenet_zip": partial(make_tiny, zipped=True),
    "afhq": make_afhq,
    "afhq_zip": partial(make_afhq, zipped=True),
    "dogfish": make_dogfish,
    "dogfish_inception": partial(make_dogfish, source="inception"),
}
every_format = pytest.mark.parametrize("name", MAKERS)
every_checksummed_file = pytest.mark.parametrize(
    "name",
    [name for name in MAKERS if name not in ("tiny_imagenet", "afhq", "afhq_zip") and not name.endswith("_archive")],
)


def fails(load: Callable[[], Images], *parts: str) -> str:
    """The message of the `DataError` that `load` raises: one sentence on one line that holds all `parts`."""
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".") and ". " not in message
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    return message


# Every loader


@every_format
def test_pixels_labels_and_order_are_upstreams(name, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    images = made.load()
    assert np.array_equal(images.train_images.numpy(), made.train_images)
    assert np.array_equal(images.train_labels.numpy(), made.train_labels)
    assert np.array_equal(images.test_images.numpy(), made.test_images)
    assert np.array_equal(images.test_labels.numpy(), made.test_labels)
    assert images.train_images.is_contiguous() and images.test_images.is_contiguous()


@every_format
def test_files_in_place_are_read_without_torchvision_and_nothing_is_written(name, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    monkeypatch.setattr(files, "_download", DOWNLOAD)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it would now fail
    before = contents(tmp_path)
    made.load()
    assert contents(tmp_path) == before


def test_importing_the_loaders_does_not_import_torchvision():
    loaders = "afhq, cifar10, cifar100, digit_pairs, digits, fashion_mnist, mnist, svhn, tiny_imagenet"
    code = f"import sys; from palimpsest.data import {loaders}; sys.exit('torchvision' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@every_checksummed_file
@pytest.mark.parametrize("damage", [flip, lambda data: data[:-100], lambda data: b""], ids=["flipped", "cut", "empty"])
def test_a_damaged_file_is_named_with_both_checksums_and_its_source_and_left_alone(name, damage, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    damaged = damage(made.file.read_bytes())
    made.file.write_bytes(damaged)
    message = fails(made.load, *made.message_parts, md5(damaged), f"{len(damaged)} bytes")
    assert "download" not in message
    assert made.file.read_bytes() == damaged


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "tiny_imagenet_zip"])
def test_a_missing_file_without_internet_says_what_to_get_and_where_to_put_it(name, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    made.file.unlink()
    fails(made.load, *made.message_parts, "no network in this test")


@pytest.mark.parametrize("module", [cifar10, cifar100])
def test_a_missing_cifar_archive_without_internet_says_what_to_get_and_where_to_put_it(module, tmp_path):
    fails(partial(module.load, tmp_path), Path(module.URL).name, module.MD5, module.URL, str(tmp_path), "no network")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_cifar_folder_that_lacks_a_file_is_not_read_in_part(name, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    made.file.unlink()
    fails(made.load, made.file.name, made.md5, made.url, "No such file")


@pytest.mark.parametrize("name", ["cifar10_archive", "cifar100_archive"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>" * 99])
def test_a_damaged_cifar_archive_is_named_with_its_source(name, damage, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    module = cifar10 if name.startswith("cifar10_") else cifar100
    archive = tmp_path / Path(module.URL).name
    archive.write_bytes(damage(archive.read_bytes()))
    fails(made.load, archive.name, module.MD5, module.URL, str(tmp_path))


def test_a_cifar_archive_member_with_another_checksum_is_named(tmp_path, monkeypatch):
    made = make_cifar10(tmp_path, monkeypatch, archived=True)
    found = cifar10.MD5S["data_batch_3"]
    monkeypatch.setitem(cifar10.MD5S, "data_batch_3", "0" * 32)
    fails(made.load, "cifar-10-python.tar.gz", "data_batch_3", "0" * 32, found, cifar10.URL)


def test_a_cifar_archive_without_a_member_says_which(tmp_path, monkeypatch):
    made = make_cifar10(tmp_path, monkeypatch, archived=True)
    monkeypatch.setitem(cifar10.MD5S, "data_batch_6", "0" * 32)
    fails(made.load, "no data_batch_6", cifar10.URL)


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith(("tiny", "afhq"))])
def test_another_number_of_images_is_an_error_that_gives_both(name, tmp_path, monkeypatch):
    made = MAKERS[name](tmp_path, monkeypatch)
    module = sys.modules[made.load.func.__module__]
    train, test = module.COUNTS
    monkeypatch.setattr(module, "COUNTS", (train + 1, test))
    fails(made.load, f"expected {train + 1} train and {test} test images", f"found {train} and {test}")


# Downloads


class Server:
    """Serves `files` at `url`; anything else is 404."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = server.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *args) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(files, "_download", DOWNLOAD)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        yield server


def test_an_absent_file_is_downloaded_and_only_it_is_left_behind(tmp_path, monkeypatch, server):
    made = make_svhn(tmp_path, monkeypatch)
    before, digest = contents(tmp_path), made.load().digest
    monkeypatch.setattr(svhn, "URL", server.url)
    server.files = {f"/{name}": data for name, data in before.items()}
    for name in before:
        (tmp_path / name).unlink()
    assert made.load().digest == digest
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(before)


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(tmp_path, monkeypatch, server):
    made = make_tiny(tmp_path, monkeypatch, zipped=True)
    made.file.unlink()
    monkeypatch.setattr(tiny_imagenet, "URL", f"{server.url}tiny-imagenet-200.zip")
    server.files = {"/tiny-imagenet-200.zip": b"a login page"}
    fails(made.load, "tiny-imagenet-200.zip", made.md5, md5(b"a login page"), tiny_imagenet.URL, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_is_an_error_that_leaves_nothing(tmp_path, monkeypatch, server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # held without listening, so that nobody else answers there
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{taken.getsockname()[1]}/cifar-10-python.tar.gz")
        fails(partial(cifar10.load, tmp_path), cifar10.URL, cifar10.MD5, "Connection refused", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_second_mirror_is_asked_when_the_first_has_not_the_file(tmp_path, monkeypatch, server):
    made = make_idx(mnist, "MNIST", tmp_path, monkeypatch)
    digest, data = made.load().digest, made.file.read_bytes()
    made.file.unlink()
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server.url}first/", f"{server.url}second/"))
    server.files = {f"/second/{made.file.name}": data}
    assert made.load().digest == digest


# Files that mean harm


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_the_payload_of_the_next_tests_does_run_when_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary"), protocol=2))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("module_name", ["cifar10", "cifar100"])
def test_a_pickle_with_another_checksum_is_never_opened(module_name, tmp_path, monkeypatch):
    made = MAKERS[module_name](tmp_path, monkeypatch)
    made.file.write_bytes(pickle.dumps(Payload(tmp_path / "canary"), protocol=2))
    monkeypatch.setattr(
        files, "unpickle", lambda *_: pytest.fail("a pickle was opened before its checksum was compared")
    )
    fails(made.load, made.file.name, made.md5)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_a_function_is_refused_even_with_the_right_checksum(protocol, tmp_path, monkeypatch):
    made = make_cifar10(tmp_path, monkeypatch)
    data = pickle.dumps({"data": Payload(tmp_path / "canary")}, protocol=protocol)
    made.file.write_bytes(data)
    monkeypatch.setitem(cifar10.MD5S, made.file.name, md5(data))
    fails(made.load, made.file.name, "mkdir", cifar10.URL)
    assert not (tmp_path / "canary").exists()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "member",
    [tarfile.TarInfo("../escaped"), link("cifar-10-batches-py/data_batch_1", "/etc/hostname"), link("up", "../..")],
    ids=["parent", "link_to_absolute", "link_to_parent"],
)
def test_a_tar_member_that_leaves_the_folder_is_refused(member, tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    made = make_cifar10(root, monkeypatch, archived=True)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.addfile(member)
    fails(made.load, "cifar-10-python.tar.gz", member.name, "outside" if not member.issym() else "link", cifar10.URL)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("name", ["../escaped.JPEG", "/escaped.JPEG", "tiny-imagenet-200/..\\..\\escaped.JPEG"])
def test_a_zip_member_that_leaves_the_folder_is_refused(name, tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    made = make_tiny(root, monkeypatch, zipped=True)
    with zipfile.ZipFile(made.file, "a") as file:
        file.writestr(name, b"harm")
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(made.file.read_bytes()))
    fails(made.load, made.file.name, "escaped.JPEG", "leaves", tiny_imagenet.URL)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in root.iterdir()] == [made.file.name]


# Splits and kinds


def made_images(train: int = 40, **others: int) -> Images:
    """Images (n, 1, 2, 2) of two classes, each sample like no other of its split."""
    splits = {"train": train, "test": 6, **others}
    return Images.of(
        ("a", "b"),
        **{
            name: ((torch.arange(4 * count) % 256).to(torch.uint8).reshape(count, 1, 2, 2), torch.arange(count) % 2)
            for name, count in splits.items()
        },
    )


def made_features(train: int = 12) -> Images:
    features = torch.randn(train + 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(train + 4) % 2
    return Images.of(("a", "b"), train=(features[:train], labels[:train]), test=(features[train:], labels[train:]))


def test_the_digest_of_data_without_other_splits_is_what_stands_in_the_files_of_before(tmp_path):
    assert digits.load(tmp_path).digest == "7be93e687f3f2854f5a295db0e519fb8692b5465c6347aa02ae971fea937e15a"


def test_the_digest_covers_every_split_and_its_name():
    made = [made_images(), made_images(backup=4), made_images(other=4), made_images(backup=5), made_features()]
    assert len({images.digest for images in made}) == len(made)
    both = made_images(backup=4, other=2)
    turned = Images(dict(reversed(both.splits.items())), both.classes)
    assert turned.digest == both.digest


@pytest.mark.parametrize("images", [made_images(), made_images(backup=4, other=2), made_features()])
def test_data_survives_its_file(images, tmp_path):
    save(images, tmp_path / "file")
    again = read(tmp_path / "file")
    assert (again.digest, again.kind) == (images.digest, images.kind)
    assert digest_of(tmp_path / "file") == images.digest
    for name, split in images.splits.items():
        assert all(torch.equal(one, other) for one, other in zip(split, again.splits[name], strict=True))


def test_a_file_without_our_header_is_refused_in_a_sentence(tmp_path):
    save_file({"train/images": torch.zeros(1)}, tmp_path / "file")
    fails(partial(read, tmp_path / "file"), "is not a readable data file", "delete it")


FAULTS = {
    "no test and no train": lambda: Images({}, ("a",)),
    "no test": lambda: Images.of(("a",), train=(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))),
    r"must be uint8 (N, C, H, W) or float32 (N, D), found torch.float32 (1, 1, 2, 2)": lambda: Images.of(
        ("a",), **dict.fromkeys(("train", "test"), (torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)))
    ),
    "backup samples must be torch.uint8 (N, 1, 2, 2), found torch.uint8 (1, 1, 2, 3)": lambda: Images(
        made_images().splits | {"backup": Samples(torch.zeros(1, 1, 2, 3, dtype=torch.uint8), torch.tensor([0]))},
        ("a", "b"),
    ),
    "test samples must be torch.uint8": lambda: Images(
        made_images().splits | {"test": made_features().splits["test"]}, ("a", "b")
    ),
    "train features must be finite, found 3 that are not": lambda: Images(
        made_features().splits | {"train": Samples(torch.full((1, 3), torch.nan), torch.tensor([0]))}, ("a", "b")
    ),
    "backup labels must lie in 0..1, found 0..2": lambda: Images(
        made_images().splits | {"backup": Samples(made_images().train_images[:3], torch.arange(3))}, ("a", "b")
    ),
    "test labels must be int64 (6,), found torch.int32 (6,)": lambda: Images(
        made_images().splits | {"test": Samples(made_images().test_images, torch.zeros(6, dtype=torch.int32))},
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_data_of_no_kind_is_refused_in_a_sentence(sentence):
    fails(FAULTS[sentence], sentence)


def test_a_share_is_held_back_of_each_class_and_nothing_is_lost_or_twice():
    images = hold_back(made_images(60), {"backup": 0.2, "probe": 0.1}, seed=3)
    assert {name: len(split.labels) for name, split in images.splits.items()} == {
        "train": 42, "test": 6, "backup": 12, "probe": 6
    }  # fmt: skip
    for name, count in (("train", 21), ("backup", 6), ("probe", 3)):
        assert images.splits[name].labels.bincount().tolist() == [count] * 2
    parts = [images.splits[name].images for name in ("train", "backup", "probe")]
    assert sorted(image.numpy().tobytes() for part in parts for image in part) == sorted(
        image.numpy().tobytes() for image in made_images(60).train_images
    )
    for part in parts:
        assert is_sorted(part[:, 0, 0, 0].int()), "every split keeps the order of upstream"
    assert torch.equal(images.test_images, made_images(60).test_images)


def test_classes_are_held_back_whole_and_beside_them_a_share_of_the_others():
    whole = made_images(60)
    images = hold_back(whole, {"held_out": [1], "backup": 0.2})
    assert {name: split.labels.bincount(minlength=2).tolist() for name, split in images.splits.items()} == {
        "train": [24, 0], "test": [3, 0], "held_out": [0, 3], "backup": [6, 0]
    }  # fmt: skip
    assert torch.equal(images.splits["held_out"].images, whole.test_images[whole.test_labels == 1])
    assert images.classes == whole.classes, "a label means what it meant"


def test_what_is_held_back_depends_on_the_seed_alone():
    first, again, other = (hold_back(made_images(), {"backup": 0.2}, seed).digest for seed in (1, 1, 2))
    assert first == again != other
    assert hold_back(made_images(), {}).digest == made_images().digest


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"backup": 0.01}, "hold_back: shares of 0.01 of the 20 training samples of class 'a' must leave at least one"),
        ({"backup": 1.0}, "and one to train on"),
        ({"backup": 0.6, "probe": 0.6}, "shares of 0.6, 0.6"),
        ({"backup": -0.2}, "shares of -0.2"),
        ({"held_out": [2]}, "hold_back: the training set has no class 2"),
        ({"test": 0.2}, "a split cannot be called 'test'; there are train, test"),
        ({"a/b": 0.2}, "a split cannot be called 'a/b'"),
    ],
)
def test_a_share_that_cannot_be_held_back_is_refused(shares, sentence):
    fails(partial(hold_back, made_images(), shares), sentence)


def test_cutting_by_class_leaves_what_was_held_back():
    images = hold_back(made_images(60), {"backup": 0.2})
    cut = stratified(images, train_per_class=5, test_per_class=2)
    assert torch.equal(cut.splits["backup"].images, images.splits["backup"].images)
    assert cut.train_labels.bincount().tolist() == [5, 5] and cut.test_labels.bincount().tolist() == [2, 2]


def test_replaced_samples_stand_in_their_places_in_the_order_given_and_the_rest_is_as_it_was():
    samples = made_images().splits["train"]
    there = torch.tensor([7, 2])
    put = Samples(255 - samples.images[there], torch.tensor([0, 1]))
    found = replaced(samples, there, put)
    assert torch.equal(found.images[there], put.images) and found.labels[there].tolist() == [0, 1]
    rest = torch.ones(40, dtype=torch.bool)
    rest[there] = False
    assert torch.equal(found.images[rest], samples.images[rest]) and samples.labels[7] == 1, "a copy"
    floats = replaced(samples, there, Samples(pixels(put.images) + 0.25 / 255, put.labels))
    assert floats.images.dtype == torch.float32 and torch.equal(floats.images[rest], pixels(samples.images[rest]))
    assert torch.equal(replaced(floats, there, put).images, pixels(found.images)), "bytes join floats on their scale"


# Digits and pairs of them


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def is_sorted(labels: torch.Tensor) -> bool:
    return bool((labels.diff() >= 0).all())


def test_digits_keep_their_17_grey_levels_from_black_to_white(tmp_path):
    source = load_digits()
    images = digits.load(tmp_path)
    level = {0: 0, 8: 128, 16: 255}
    levels = torch.cat([images.train_images, images.test_images]).unique().tolist()
    assert len(levels) == 17 and all(levels[of] == to for of, to in level.items())
    expected = Counter(
        (np.array(levels, dtype=np.uint8)[image.astype(int)].tobytes(), label)
        for image, label in zip(source.images, source.target, strict=True)
    )
    pixels, labels = (
        torch.cat([images.train_images, images.test_images]),
        torch.cat([images.train_labels, images.test_labels]),
    )
    assert (
        Counter((image.numpy().tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)) == expected
    )


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_digits_are_split_class_by_class_without_overlap(fraction, tmp_path):
    images = digits.load(tmp_path, test_fraction=fraction)
    assert images.train_images.shape[1:] == (1, 8, 8)
    assert not as_set(images.train_images) & as_set(images.test_images)
    whole = np.bincount(load_digits().target)
    assert images.test_labels.bincount().tolist() == [round(fraction * count) for count in whole]
    assert (images.train_labels.bincount() + images.test_labels.bincount()).tolist() == whole.tolist()


@pytest.mark.parametrize("loader", [digits, digit_pairs])
def test_a_seed_fixes_the_digits_and_another_changes_them(loader, tmp_path):
    assert loader.load(tmp_path, seed=3).digest == loader.load(tmp_path, seed=3).digest
    assert loader.load(tmp_path, seed=3).digest != loader.load(tmp_path, seed=4).digest


@pytest.mark.parametrize("loader", [digits, digit_pairs])
def test_digits_come_in_mixed_order(loader, tmp_path):
    images = loader.load(tmp_path)
    for labels in (images.train_labels, images.test_labels):
        assert not is_sorted(labels)
        assert len(labels[:100].unique()) > len(images.classes) // 3


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_that_leaves_a_class_empty_is_refused(fraction, tmp_path):
    fails(partial(digits.load, tmp_path, test_fraction=fraction), f"test_fraction of {fraction}", "class 0")


@pytest.mark.parametrize(
    ("load", "wrong"),
    [
        (digits.load, {"test_fraction": 1.0}),
        (digits.load, {"seed": -1}),
        (digit_pairs.load, {"train_per_class": 0}),
        (cifar100.load, {"per_class": (-1, 1)}),
        (tiny_imagenet.load, {"wnids": [3]}),
        (afhq.load, {"size": 513}),
    ],
)
def test_a_value_outside_its_range_is_refused_before_anything_is_read(load, wrong, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be"):
        load(tmp_path / "nowhere", **wrong)


def test_each_half_of_a_pair_is_a_digit_of_its_class_and_split(tmp_path):
    single, pairs = digits.load(tmp_path, seed=5), digit_pairs.load(tmp_path, seed=5)
    for split in ("train", "test"):
        digit_of = {
            image.numpy().tobytes(): int(label)
            for image, label in zip(getattr(single, f"{split}_images"), getattr(single, f"{split}_labels"), strict=True)
        }
        for image, label in zip(getattr(pairs, f"{split}_images"), getattr(pairs, f"{split}_labels"), strict=True):
            left, right = image[:, :, :8].numpy().tobytes(), image[:, :, 8:].numpy().tobytes()
            assert 10 * digit_of[left] + digit_of[right] == label
            assert pairs.classes[label] == f"{digit_of[left]}{digit_of[right]}"


def test_no_half_of_a_test_pair_is_in_a_train_pair(tmp_path):
    pairs = digit_pairs.load(tmp_path)
    halves = {
        split: as_set(images[..., :8]) | as_set(images[..., 8:])
        for split, images in (("train", pairs.train_images), ("test", pairs.test_images))
    }
    assert not halves["train"] & halves["test"]


def test_pairs_are_distinct_and_as_many_a_class_as_asked_for(tmp_path):
    pairs = digit_pairs.load(tmp_path, train_per_class=7, test_per_class=3)
    assert pairs.train_images.shape == (700, 1, 8, 16) and pairs.test_images.shape == (300, 1, 8, 16)
    assert len(as_set(pairs.train_images)) == 700 and len(as_set(pairs.test_images)) == 300
    assert pairs.train_labels.bincount().tolist() == [7] * 100 and pairs.test_labels.bincount().tolist() == [3] * 100


def test_both_polarities_make_200_classes_the_second_hundred_inverted(tmp_path):
    plain = digit_pairs.load(tmp_path, train_per_class=4, test_per_class=2)
    both = digit_pairs.load(tmp_path, train_per_class=4, test_per_class=2, both_polarities=True)
    assert len(both.classes) == len(set(both.classes)) == 200
    assert both.train_images.shape == (800, 1, 8, 16) and both.test_images.shape == (400, 1, 8, 16)
    for split in ("train", "test"):
        once, once_labels = getattr(plain, f"{split}_images"), getattr(plain, f"{split}_labels")
        twice, twice_labels = getattr(both, f"{split}_images"), getattr(both, f"{split}_labels")
        for label in range(100):
            assert as_set(twice[twice_labels == label]) == as_set(once[once_labels == label])
            assert as_set(255 - twice[twice_labels == 100 + label]) == as_set(once[once_labels == label])


def test_more_pairs_than_there_are_is_refused(tmp_path):
    fails(partial(digit_pairs.load, tmp_path, test_per_class=36 * 36 + 1), "class 00", "1296", "1297")


# IDX and SVHN


@pytest.mark.parametrize(("module", "folder"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_idx_files_give_the_same_images_packed_and_unpacked(module, folder, tmp_path, monkeypatch):
    packed = make_idx(module, folder, tmp_path / "packed", monkeypatch).load()
    unpacked = make_idx(module, folder, tmp_path / "unpacked", monkeypatch, packed=False).load()
    assert packed.digest == unpacked.digest


@pytest.mark.parametrize(
    ("data", "expected", "found"),
    [
        (struct.pack(">HBBiii", 0, 8, 3, 5, 28, 28) + bytes(5 * 784 - 1), "3920 bytes", "3919"),
        (struct.pack(">HBBi", 0, 8, 1, 5) + bytes(5), "header of 3 axes", "00 00 08 01"),
        (b"", "header of 3 axes", "an empty file"),
    ],
    ids=["cut", "labels_for_images", "empty"],
)
def test_an_idx_file_is_checked_against_its_own_header(data, expected, found, tmp_path, monkeypatch):
    made = make_idx(mnist, "MNIST", tmp_path, monkeypatch, packed=False)
    made.file.write_bytes(data)
    monkeypatch.setitem(mnist.MD5S, made.file.name, ("", md5(data)))
    fails(made.load, made.file.name, expected, found, made.url)


def test_images_without_a_label_are_refused(tmp_path, monkeypatch):
    made = make_idx(mnist, "MNIST", tmp_path, monkeypatch, packed=False)
    data = struct.pack(">HBBi", 0, 8, 1, 29) + bytes(29)
    (made.file.parent / "train-labels-idx1-ubyte").write_bytes(data)
    monkeypatch.setitem(mnist.MD5S, "train-labels-idx1-ubyte", ("", md5(data)))
    fails(made.load, "as many train labels as images (30)", "found 29")


def test_svhn_is_found_in_its_own_folder_too(tmp_path, monkeypatch):
    made = make_svhn(tmp_path, monkeypatch)
    digest = made.load().digest
    (tmp_path / "SVHN").mkdir()
    for name in svhn.MD5S:
        (tmp_path / name).rename(tmp_path / "SVHN" / name)
    assert made.load().digest == digest


def test_svhn_label_ten_is_the_digit_zero(tmp_path, monkeypatch):
    images = make_svhn(tmp_path, monkeypatch).load()
    assert images.train_labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert images.classes[0] == "0"


# CIFAR


@pytest.mark.parametrize("maker", [make_cifar10, make_cifar100])
def test_a_cifar_folder_and_its_archive_give_the_same_images(maker, tmp_path, monkeypatch):
    for name in ("folder", "archive"):
        (tmp_path / name).mkdir()
    assert (
        maker(tmp_path / "folder", monkeypatch).load().digest
        == maker(tmp_path / "archive", monkeypatch, archived=True).load().digest
    )


@pytest.mark.parametrize("archived", [False, True])
def test_the_cifar100_part_is_the_one_its_rule_describes(archived, tmp_path, monkeypatch):
    made = make_cifar100(tmp_path, monkeypatch, archived)
    images, part = made.load(per_class=(50, 12)), cifar100_part()
    assert images.train_labels.tolist() == part["train"]["fine_labels"]
    assert images.test_labels.tolist() == part["test"]["fine_labels"]
    assert np.array_equal(images.train_images.flatten(1).numpy(), part["train"]["data"])
    assert np.array_equal(images.test_images.flatten(1).numpy(), part["test"]["data"])


@pytest.mark.parametrize("per_class", [(50, 12), (7, 12), (20, 3)])
def test_the_whole_cifar100_and_the_pre_cut_folder_give_the_same_part(per_class, tmp_path, monkeypatch):
    whole = make_cifar100(tmp_path / "whole", monkeypatch).load(per_class=per_class)
    make_cifar100_part(tmp_path / "part", monkeypatch)
    part = cifar100.load(tmp_path / "part", per_class=per_class)
    assert whole.digest == part.digest
    assert part.train_labels.bincount().tolist() == [per_class[0]] * 10
    assert part.test_labels.bincount().tolist() == [per_class[1]] * 10


def test_the_cifar100_part_is_never_taken_for_the_whole_or_for_more_than_it_holds(tmp_path, monkeypatch):
    make_cifar100_part(tmp_path, monkeypatch)
    for per_class in (None, (51, 12), (50, 13)):
        fails(partial(cifar100.load, tmp_path, per_class=per_class), "cifar-100-python.tar.gz", "no network")


def test_a_damaged_cifar100_part_is_named_and_not_replaced_by_a_download(tmp_path, monkeypatch):
    make_cifar100_part(tmp_path, monkeypatch)
    path = tmp_path / "cifar-100-python-subset" / "train"
    path.write_bytes(flip(path.read_bytes()))
    message = fails(partial(cifar100.load, tmp_path, per_class=(50, 12)), str(path), cifar100.PART_MD5S["train"])
    assert "download" not in message


@pytest.mark.parametrize("per_class", [(121, 30), (120, 31), (5,)])
def test_a_cifar100_part_that_the_rule_cannot_draw_is_refused(per_class, tmp_path):
    fails(partial(cifar100.load, tmp_path, per_class=per_class), "(120, 30)", str(per_class))


# Tiny-ImageNet


def test_tiny_imagenet_classes_are_the_lines_of_words_txt_in_wnid_order(tmp_path, monkeypatch):
    images = make_tiny(tmp_path, monkeypatch).load()
    assert images.classes == tuple(f"name {wnid}, alias" for wnid in sorted(WNIDS))


def test_a_grey_jpeg_becomes_three_equal_channels(tmp_path, monkeypatch):
    images = make_tiny(tmp_path, monkeypatch).load()
    grey = [bool((image == image[:1]).all()) for image in images.train_images]
    assert grey == [index % 11 == 1 for index in range(33)]


def test_the_tiny_imagenet_folder_and_its_zip_give_the_same_images(tmp_path, monkeypatch):
    for name in ("folder", "zip"):
        (tmp_path / name).mkdir()
    folder = make_tiny(tmp_path / "folder", monkeypatch)
    zipped = make_tiny(tmp_path / "zip", monkeypatch, zipped=True)
    assert folder.load().digest == zipped.load().digest


@pytest.mark.parametrize("zipped", [False, True])
def test_wnids_take_these_classes_whole_and_rank_them_anew(zipped, tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch, zipped=zipped)
    every, two = made.load(), made.load(wnids=["n03000000", "n01000000"])
    assert two.classes == (every.classes[0], every.classes[2])
    for split in ("train", "test"):
        labels = getattr(every, f"{split}_labels")
        kept = labels != 1
        assert torch.equal(getattr(two, f"{split}_images"), getattr(every, f"{split}_images")[kept])
        assert torch.equal(getattr(two, f"{split}_labels"), labels[kept] // 2)


def test_groups_make_one_class_of_several_in_the_order_of_their_names(tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    every = made.load()
    grouped = made.load(groups={"plants": ["n02000000"], "animals": ["n03000000", "n01000000"]})
    assert grouped.classes == ("animals", "plants")
    for split in ("train", "test"):
        labels = getattr(every, f"{split}_labels")
        assert torch.equal(getattr(grouped, f"{split}_images"), getattr(every, f"{split}_images"))
        assert torch.equal(getattr(grouped, f"{split}_labels"), (labels == 1).long())
    part = made.load(groups={"one": ["n01000000"], "other": ["n03000000"]})
    assert torch.equal(part.train_images, made.load(wnids=["n01000000", "n03000000"]).train_images)


def test_the_first_classes_are_those_of_the_lowest_wnids(tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    assert made.load(first=2).digest == made.load(wnids=sorted(WNIDS)[:2]).digest
    fails(partial(made.load, first=2, groups={"a": WNIDS[:2]}), "wnids or first")


def test_groups_that_share_a_wnid_or_stand_beside_wnids_are_refused(tmp_path, monkeypatch):
    load = make_tiny(tmp_path, monkeypatch).load
    fails(partial(load, groups={"a": WNIDS[:2], "b": WNIDS[1:]}), "one group", WNIDS[1])
    fails(partial(load, groups={"a": WNIDS[:2]}, wnids=WNIDS), "wnids or first")
    fails(partial(load, groups={"a": WNIDS[:2], "b": ["n09999999"]}), "n09999999", "wnids.txt")


def test_the_part_folder_gives_the_same_images_where_the_whole_is_missing(tmp_path, monkeypatch):
    whole = make_tiny(tmp_path / "whole", monkeypatch).load(wnids=WNIDS)
    part = make_tiny(tmp_path / "part", monkeypatch, folder="tiny-imagenet-20").load(wnids=WNIDS)
    assert whole.digest == part.digest


@pytest.mark.parametrize("wnids", [None, [WNIDS[0], "n09999999"]])
def test_the_part_folder_is_never_taken_for_classes_that_it_has_not(wnids, tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch, folder="tiny-imagenet-20")
    fails(partial(made.load, wnids=wnids), "tiny-imagenet-200.zip", tiny_imagenet.URL, "no network")


def test_a_class_that_tiny_imagenet_has_not_is_refused_by_name(tmp_path, monkeypatch):
    fails(partial(make_tiny(tmp_path, monkeypatch).load, wnids=[WNIDS[0], "n09999999"]), "n09999999", "wnids.txt")


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_jpeg_that_is_cut_off_is_named(number, tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    path = tmp_path / f"tiny-imagenet-200/train/n01000000/images/n01000000_{number}.JPEG"
    path.write_bytes(path.read_bytes()[:-400])
    fails(made.load, str(path), "a JPEG", tiny_imagenet.URL)


def test_a_file_that_is_no_jpeg_is_named(tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    path = tmp_path / "tiny-imagenet-200/val/images/val_3.JPEG"
    path.write_bytes(b"not an image")
    fails(made.load, str(path), "a JPEG", tiny_imagenet.URL)


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    path = tmp_path / "tiny-imagenet-200/val/images/val_3.JPEG"
    path.write_bytes(jpeg("RGB", 0, side=32))
    fails(made.load, str(path), "64x64", "32x32")


@pytest.mark.parametrize(
    ("lost", "expected", "found"),
    [
        ("train/n02000000/images/n02000000_4.JPEG", "11 images of n02000000", "found 10"),
        ("val/images/val_1.JPEG", "2 images of n02000000", "found 1"),
    ],
)
def test_a_class_with_an_image_too_few_is_named_with_both_numbers(lost, expected, found, tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    (tmp_path / "tiny-imagenet-200" / lost).unlink()
    fails(made.load, expected, found, tiny_imagenet.URL)


@pytest.mark.parametrize("lost", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_a_tiny_imagenet_folder_without_its_lists_says_which(lost, tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    (tmp_path / "tiny-imagenet-200" / lost).unlink()
    fails(made.load, lost, "No such file", tiny_imagenet.URL)


def test_a_list_of_fewer_classes_is_not_taken_for_the_whole(tmp_path, monkeypatch):
    made = make_tiny(tmp_path, monkeypatch)
    (tmp_path / "tiny-imagenet-200" / "wnids.txt").write_text(f"{WNIDS[0]}\n")
    fails(made.load, "3 classes", "found 1")


# AFHQ


def test_afhq_is_resized_by_its_loader(tmp_path, monkeypatch):
    made = make_afhq(tmp_path, monkeypatch)
    images = afhq.load(tmp_path, size=8)
    assert images.train_images.shape == (6, 3, 8, 8) and images.classes == ("cat", "dog", "wild")
    first = Image.fromarray(made.train_images[0].transpose(1, 2, 0)).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(images.train_images[0].numpy(), np.array(first).transpose(2, 0, 1))


def test_the_afhq_folder_and_its_zip_give_the_same_images(tmp_path, monkeypatch):
    for name in ("folder", "zip"):
        (tmp_path / name).mkdir()
    assert (
        make_afhq(tmp_path / "folder", monkeypatch).load().digest
        == make_afhq(tmp_path / "zip", monkeypatch, zipped=True).load().digest
    )


def test_an_absent_afhq_says_what_to_get_and_where_to_put_it_and_is_not_downloaded(tmp_path, monkeypatch):
    made = make_afhq(tmp_path, monkeypatch, zipped=True)
    made.file.unlink()
    assert "no network" not in fails(made.load, *made.message_parts)


def test_an_afhq_archive_with_another_checksum_is_named_with_both(tmp_path, monkeypatch):
    made = make_afhq(tmp_path, monkeypatch, zipped=True)
    made.file.write_bytes(flip(made.file.read_bytes()))
    found = hashlib.sha256(made.file.read_bytes()).hexdigest()
    fails(made.load, *made.message_parts, f"sha256 {found}")


@pytest.mark.parametrize("zipped", [False, True])
def test_an_afhq_class_with_another_number_of_images_is_named_with_both_numbers(zipped, tmp_path, monkeypatch):
    made = make_afhq(tmp_path, monkeypatch, zipped=zipped)
    monkeypatch.setattr(afhq, "COUNTS", {"train": (3, 2, 1), "val": (1, 2, 1)})
    fails(made.load, "val/dog", "expected 2 images", "found 1", afhq.URL)


# The real files


def real(*parts: str) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.parametrize(
    ("module", "folder", "train", "test"),
    [
        (
            mnist,
            "MNIST",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        (fashion_mnist, "FashionMNIST", [6000] * 10, [1000] * 10),
    ],
)
def test_the_real_mnists_have_their_known_sizes(module, folder, train, test):
    real(folder, "raw")
    images = module.load(DATA)
    assert images.train_images.shape == (60000, 1, 28, 28) and images.test_images.shape == (10000, 1, 28, 28)
    assert images.train_labels.bincount().tolist() == train
    assert images.test_labels.bincount().tolist() == test


def test_the_first_real_mnist_digits_are_the_well_known_5_0_4_1_9():
    real("MNIST", "raw")
    images = mnist.load(DATA)
    assert images.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    mean = images.train_images.double().mean() / 255
    assert abs(mean - 0.1307) < 1e-4  # the constant that everyone normalises MNIST with


def test_the_real_cifar10_has_its_known_sizes_and_mean():
    real("cifar-10-batches-py")
    images = cifar10.load(DATA)
    assert images.train_images.shape == (50000, 3, 32, 32) and images.test_images.shape == (10000, 3, 32, 32)
    assert images.train_labels.bincount().tolist() == [5000] * 10
    assert images.test_labels.bincount().tolist() == [1000] * 10
    assert images.classes[:4] == ("airplane", "automobile", "bird", "cat")
    mean = torch.stack([images.train_images[:, channel].double().mean() / 255 for channel in range(3)])
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=1e-4)


def test_the_real_pre_cut_cifar100_is_in_the_order_that_its_rule_gives():
    folder = real("cifar-100-python-subset")
    images = cifar100.load(DATA, per_class=(50, 12))
    assert images.classes[:2] == ("apple", "aquarium_fish") and len(images.classes) == 100
    # What `sample` and `shuffle` do depends on the sizes alone (500 and 100 a class), so the rule fixes the labels and,
    # within a class, which name sorts before which, without the whole data set.
    generator = random.Random(0)
    for split, size, drawn, kept in (("train", 500, 120, 50), ("test", 100, 30, 12)):
        names = pickle.loads((folder / split).read_bytes(), encoding="latin1")["filenames"]  # its checksum was right
        labels = getattr(images, f"{split}_labels").tolist()
        picked = [(label, rank) for label in range(100) for rank in generator.sample(range(size), drawn)]
        generator.shuffle(picked)
        of_class = {label: [rank for other, rank in picked if other == label][:kept] for label in range(100)}
        taken: Counter[int] = Counter()
        expected = []
        for label, _ in picked:
            taken[label] += 1
            if taken[label] <= kept:
                expected.append(label)
        assert labels == expected
        for label, ranks in of_class.items():
            in_class = [name for name, other in zip(names, labels, strict=True) if other == label]
            assert [in_class[at] for at in np.argsort(ranks)] == sorted(in_class)


def test_the_real_20_tiny_imagenet_classes_have_500_and_50_images_and_148_grey_ones():
    folder = real("tiny-imagenet-20")
    images = tiny_imagenet.load(DATA, wnids=(folder / "wnids.txt").read_text().split())
    assert images.train_images.shape == (10000, 3, 64, 64) and images.test_images.shape == (1000, 3, 64, 64)
    assert images.train_labels.bincount().tolist() == [500] * 20 and images.test_labels.bincount().tolist() == [50] * 20
    assert images.classes[0] == "goldfish, Carassius auratus" and images.classes[-1] == "refrigerator, icebox"
    grey = sum(
        int((pixels == pixels[:, :1]).flatten(1).all(1).sum()) for pixels in (images.train_images, images.test_images)
    )
    assert grey >= 148  # as many files are grey; a colour file may show a grey picture too


def test_the_real_animals_are_three_classes_of_different_size():
    real("tiny-imagenet-20")
    groups = load_config()["datasets"]["tiny_animals"]["groups"]
    images = tiny_imagenet.load(DATA, groups=groups)
    assert images.classes == ("cat", "dog", "wild")
    assert images.train_labels.bincount().tolist() == [1000, 2000, 1500]
    assert images.test_labels.bincount().tolist() == [100, 200, 150]
