"""JPEG: compress and decompress; quantising small high frequencies removes much of an attack's noise.

Dziugaite, Ghahramani and Roy, "A study of the effect of JPG compression on adversarial images" (2016), with baseline
JPEG, colour at half resolution (4:2:0), as libjpeg does by default. Value: quality 75 [R], libjpeg's default.
"""

from __future__ import annotations

from io import BytesIO
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from palimpsest.ranges import checked


@checked
def purify(images: torch.Tensor, *, quality: Annotated[int, "[1, 100]"] = 75) -> torch.Tensor:
    """`images` `uint8` (N, C, H, W), C 1 or 3, after one round through the codec, on the CPU and back.

    Raises `ValueError` for another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"jpeg: images have 1 or 3 channels, not {images.shape[1]}")
    rows = images.permute(0, 2, 3, 1).squeeze(3) if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    purified = np.empty(rows.shape, np.uint8)
    # The codec takes one image at a time. Pillow's, since torchvision's own is deprecated.
    for index, row in enumerate(rows.cpu().contiguous().numpy()):
        file = BytesIO()
        Image.fromarray(row).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            purified[index] = np.asarray(read)
    made = torch.from_numpy(purified).view(len(images), *images.shape[2:], images.shape[1])
    return made.permute(0, 3, 1, 2).contiguous().to(images.device)
