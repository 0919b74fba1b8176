"""Gaussian blur: a weighted mean over each pixel's neighbours, which averages independent noise away.

The oldest denoiser there is, and the lower bound for those that look at edges. Values [R]: sigma 1 pixel, cut off at
2 sigma (kernel 5); borders are mirrored.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torchvision.transforms.functional import gaussian_blur

from palimpsest.ranges import checked


@checked
def purify(
    images: torch.Tensor,
    *,
    sigma: Annotated[float, "(0, inf)"] = 1.0,
    kernel: Annotated[int, "[1, inf)"] = 5,
    batch_size: Annotated[int, "[1, inf)"] = 1000,
) -> torch.Tensor:
    """`images` `uint8` (N, C, H, W), blurred and rounded to whole levels.

    sigma: in pixels. kernel: pixels across, odd, less than twice the image's shorter side. batch_size: images at once.
    Raises `ValueError` for another kernel.
    """
    if kernel % 2 != 1 or kernel >= 2 * min(images.shape[2:]):
        raise ValueError(
            f"gaussian_blur: kernel is odd and less than twice the image's shorter side ({min(images.shape[2:])} "
            f"pixels), not {kernel}"
        )
    return torch.cat([gaussian_blur(part, [kernel, kernel], [sigma, sigma]) for part in images.split(batch_size)])
