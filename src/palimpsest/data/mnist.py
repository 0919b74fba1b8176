"""MNIST: handwritten digits, 28x28 grey, 60,000 train and 10,000 test images of ten classes.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998.
Copyright of Yann LeCun and Corinna Cortes, derived from NIST data; the files carry no licence text, the Keras
documentation states CC BY-SA 3.0.
"""

from __future__ import annotations

from pathlib import Path

from palimpsest.data import Images
from palimpsest.data import _files as files

# MD5 of each upstream .gz, and URLs: torchvision.datasets.MNIST. MD5 unpacked: computed from those .gz files.
MD5S = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
COUNTS = (60_000, 10_000)
CLASSES = tuple("0123456789")


def load(root: Path) -> Images:
    """MNIST as (N, 1, 28, 28), white ink on black, in upstream order.

    root: holds MNIST/raw/ with the four IDX files, as `.gz` or unpacked, as torchvision lays them out; absent ones are
        downloaded there (11 MB).
    Raises `DataError` for a file that cannot be had, or that is not the upstream one.
    """
    return files.idx_images(root / "MNIST" / "raw", MD5S, MIRRORS, COUNTS, CLASSES)
