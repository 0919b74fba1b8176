"""Fashion-MNIST: Zalando's articles, 28x28 grey, 60,000 train and 10,000 test images of ten classes, each as large.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747, 2017. Licence: MIT, Copyright (c) 2017 Zalando SE.
"""

from __future__ import annotations

from pathlib import Path

from palimpsest.data import Images
from palimpsest.data import _files as files

# MD5 of each upstream .gz, URL and class names: torchvision.datasets.FashionMNIST. MD5 unpacked: computed from the .gz.
MD5S = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
}
MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
COUNTS = (60_000, 10_000)
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load(root: Path) -> Images:
    """Fashion-MNIST as (N, 1, 28, 28), the article bright on black, in upstream order.

    root: holds FashionMNIST/raw/ with the four IDX files, as `.gz` or unpacked, as torchvision lays them out; absent
        ones are downloaded there (31 MB).
    Raises `DataError` for a file that cannot be had, or that is not the upstream one.
    """
    return files.idx_images(root / "FashionMNIST" / "raw", MD5S, MIRRORS, COUNTS, CLASSES)
