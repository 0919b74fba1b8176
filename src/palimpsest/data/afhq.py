"""AFHQ, the first version: faces of cats, dogs and wild animals, 14,630 train and 1,500 test images of three classes.

Choi, Uh, Yoo, Ha, "StarGAN v2: Diverse Image Synthesis for Multiple Domains", CVPR 2020,
https://github.com/clovaai/stargan-v2. Licence: CC BY-NC 4.0, NAVER Corp. The second version (2021) is another data set,
with 15,803 images.

The upstream images are 512x512 JPEGs. The validation set is the test set here; the healing paper's accuracies are
multiples of 1/1500. Nothing is downloaded: whoever wants the images accepts their licence and puts the archive into the
data root. Its publisher gives no checksum; the one here is that of another public loader of the same link. An unpacked
folder has none: what is checked there is the number of images of each class, their size, and that they can be decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from palimpsest.data import Images
from palimpsest.data import _files as files
from palimpsest.data import _jpegs as jpegs
from palimpsest.ranges import checked

URL = "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip"  # stargan-v2, download.sh
SHA256 = "7f63dcc14ef58c0e849b59091287e1844da97016073aac20403ae6c6132b950f"  # LS4GAN/uvcgan2, download_dataset.sh
FOLDER = "afhq"
SIDE = 512
SUFFIX = ".jpg"
CLASSES = ("cat", "dog", "wild")
# Images of each class; train as in Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020.
COUNTS = {"train": (5153, 4739, 4738), "val": (500, 500, 500)}


@checked
def load(root: Path, *, size: Annotated[int, "[1, 512]"] = 224) -> Images:
    """AFHQ as (N, 3, size, size), by class and then by file name.

    root: holds afhq/{train,val}/{cat,dog,wild}/ or afhq.zip, which is read without unpacking it.
    size: to which the images are resized, by Pillow's bicubic filter. 224 is what published ImageNet weights expect
        (docs/methods.md 2.1).
    Raises `DataError` for a file that is missing, cannot be decoded or is not 512x512, and for a class with another
    number of images.
    """
    archive, folder = root / f"{FOLDER}.zip", root / FOLDER
    if folder.is_dir():
        tree = jpegs.unpacked(folder, SUFFIX, f"delete {folder}, then {files.get([URL], root)}")
    elif archive.exists():
        tree = jpegs.zipped(archive, FOLDER, SUFFIX, "sha256", SHA256, f"delete it, then {files.get([URL], root)}")
    else:
        raise files.fault(archive, f"a file with sha256 {SHA256}", "none", files.get([URL], root))
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for split, counts in COUNTS.items():
        listed = [[f"{split}/{name}/{file}" for file in tree.names(f"{split}/{name}")] for name in CLASSES]
        for name, found, count in zip(CLASSES, listed, counts, strict=True):
            if len(found) != count:
                raise files.fault(tree.path / split / name, f"{count} images", f"{len(found)}", tree.mend)
        pixels = torch.from_numpy(tree.pixels([file for found in listed for file in found], SIDE, size))
        splits.append((pixels, torch.arange(len(CLASSES)).repeat_interleave(torch.tensor(counts))))
    return Images.of(CLASSES, train=splits[0], test=splits[1])
