"""The loader of ImageNet's folders, against a small tree that the test makes; torchvision prepares the images anew."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from palimpsest.data import DataError, Images, imagenet

WNIDS = ("n01440764", "n02105855", "n03000000")
SIZE = 14  # the shorter side is then 16
# Of an image: its width and height, and Pillow's mode. Wide, high, odd and square ones, smaller and larger than SIZE.
SHAPES = (((40, 30), "RGB"), ((21, 33), "L"), ((17, 50), "CMYK"), ((16, 16), "RGB"), ((9, 12), "RGB"))


def encoded(shape: tuple[int, int], mode: str, seed: int, kind: str = "JPEG") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def made(root: Path, train: int = 5, val: int = 3) -> dict[str, bytes]:
    """A tree of three classes, its files by name; a class has other files too, and train a folder that is no class."""
    found = {}
    for at, wnid in enumerate(WNIDS):
        for split, count in (("train", train), ("val", val)):
            for number in range(count):
                shape, mode = SHAPES[(at + number) % len(SHAPES)]
                # 10 stands before 2 in the order of names.
                found[f"{split}/{wnid}/{wnid}_{number * 5}.JPEG"] = encoded(shape, mode, 100 * at + number + len(split))
    others = {f"train/{WNIDS[0]}/notes.txt": b"no image", "train/other/a.JPEG": b"no class"}
    for name, data in (found | others).items():
        (root / "imagenet" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "imagenet" / name).write_bytes(data)
    return found


def prepared(data: bytes) -> torch.Tensor:
    """An image as torchvision prepares it for evaluation, (3, SIZE, SIZE)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = CenterCrop(SIZE)(Resize(16, interpolation=InterpolationMode.BICUBIC)(image))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def digest(names: list[str]) -> str:
    return hashlib.sha256(b"".join(name.encode() + b"\n" for name in names)).hexdigest()


def fails(load: Callable[[], Images], *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".") and all(part in message for part in parts), message


def test_the_first_images_of_each_class_are_prepared_as_torchvision_prepares_them(tmp_path: Path) -> None:
    files = made(tmp_path)
    images = imagenet.load(tmp_path, train_per_class=4, test_per_class=2, size=SIZE)
    assert images.classes == WNIDS
    for split, upstream, count in (("train", "train", 4), ("test", "val", 2)):
        samples = images.splits[split]
        assert samples.labels.tolist() == [label for label in range(3) for _ in range(count)]
        names = [
            name
            for wnid in WNIDS
            for name in sorted(name for name in files if name.startswith(f"{upstream}/{wnid}/"))[:count]
        ]
        assert torch.equal(samples.images, torch.stack([prepared(files[name]) for name in names])), split
    assert "train/n01440764/n01440764_5.JPEG" not in names and images.train_images.float().std() > 20


def test_a_png_that_is_called_a_jpeg_is_read(tmp_path: Path) -> None:
    made(tmp_path)
    data = encoded((30, 20), "RGB", 7, "PNG")
    (tmp_path / "imagenet/train/n02105855/n02105855_0.JPEG").write_bytes(data)
    images = imagenet.load(tmp_path, train_per_class=1, test_per_class=1, size=SIZE)
    assert torch.equal(images.train_images[1], prepared(data))


def test_classes_are_chosen_by_wnid_in_their_order(tmp_path: Path) -> None:
    made(tmp_path)

    def classes(**keywords: object) -> tuple[str, ...]:
        return imagenet.load(tmp_path, train_per_class=1, test_per_class=1, size=4, **keywords).classes

    assert classes(first=2) == WNIDS[:2]
    assert classes(wnids=[WNIDS[2], WNIDS[0], WNIDS[2]]) == (WNIDS[0], WNIDS[2])
    assert classes(wnids=[WNIDS[2], WNIDS[1]], first=1) == (WNIDS[1],)


def test_the_digest_is_of_the_names_of_what_is_taken(tmp_path: Path) -> None:
    made(tmp_path)
    wnid = WNIDS[0]
    names = [f"train/{wnid}/{wnid}_{number}.JPEG" for number in (0, 10)] + [f"val/{wnid}/{wnid}_0.JPEG"]

    def load(sha256: str) -> Images:
        return imagenet.load(
            tmp_path, wnids=[wnid], train_per_class=2, test_per_class=1, size=SIZE, names_sha256=sha256
        )

    right = digest(names)
    assert load(right).digest == load("").digest
    (tmp_path / f"imagenet/train/{wnid}/{wnid}_9.JPEG").write_bytes(b"the last by name, which nobody takes")
    load(right)
    (tmp_path / f"imagenet/{names[1]}").rename(tmp_path / f"imagenet/train/{wnid}/{wnid}_11.JPEG")
    there = digest([names[0], f"train/{wnid}/{wnid}_11.JPEG", names[2]])
    fails(lambda: load(right), right, f"3 with sha256 {there}", imagenet.URL)


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    fails(lambda: imagenet.load(tmp_path), str(tmp_path / "imagenet/train"), "No such file", imagenet.URL)
    (tmp_path / "imagenet/train").mkdir(parents=True)
    fails(lambda: imagenet.load(tmp_path), "a folder for each class", "found none", imagenet.URL)
    made(tmp_path, train=3, val=2)
    fails(lambda: imagenet.load(tmp_path, size=4, train_per_class=4), f"train/{WNIDS[0]}", "4 images", "found 3")
    few = {"size": 4, "train_per_class": 3}
    fails(lambda: imagenet.load(tmp_path, test_per_class=3, **few), f"val/{WNIDS[0]}", "3 images", "found 2")
    wnids = [WNIDS[0], "n09999999"]
    fails(lambda: imagenet.load(tmp_path, wnids=wnids, **few), "n09999999", "a folder of JPEGs", imagenet.URL)


@pytest.mark.parametrize("wnid", ["../n01440764", "n0144076", "n01440764/..", "n01440764\n"])
def test_a_wnid_that_would_leave_the_folder_is_refused(wnid: str, tmp_path: Path) -> None:
    made(tmp_path)
    fails(lambda: imagenet.load(tmp_path, wnids=[wnid], size=4), "a wnid is an n and eight digits", repr(wnid))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"a login page", lambda _: b""])
def test_an_image_that_cannot_be_decoded_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    files = made(tmp_path)
    name = f"val/{WNIDS[1]}/{WNIDS[1]}_0.JPEG"
    (tmp_path / "imagenet" / name).write_bytes(damage(files[name]))
    fails(
        lambda: imagenet.load(tmp_path, train_per_class=1, test_per_class=1, size=4),
        str(tmp_path / "imagenet" / name),
        "expected a JPEG",
        "cannot be decoded",
        imagenet.URL,
    )


@pytest.mark.parametrize("wrong", [{"first": 0}, {"train_per_class": 0}, {"test_per_class": 51}, {"size": 0}])
def test_a_value_outside_its_range_is_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be"):
        imagenet.load(tmp_path / "nowhere", **wrong)
