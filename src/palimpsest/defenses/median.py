"""Median filter: each pixel becomes the middle value of its 3 x 3 neighbourhood, which keeps edges.

Xu, Evans and Qi, "Feature squeezing" (NDSS 2018), section III-B, "local smoothing". Value [R]: 3 x 3 pixels; border
pixels are repeated outwards. There 2 x 2 did best, but a window without a middle shifts the image by half a pixel.
"""

from __future__ import annotations

import torch


def purify(images: torch.Tensor) -> torch.Tensor:
    """`images` `uint8` (N, C, H, W), each channel filtered alone."""
    # Sort each column of three, then the middle of nine is the middle of: the largest of the lowest, the middle of the
    # middles, the lowest of the largest. Twenty comparisons of whole tensors; torch.median takes ten times as long.
    above, middle, below = _neighbours(images, 2)
    low = above.minimum(middle).minimum(below)
    high = above.maximum(middle).maximum(below)
    left, centre, right = _neighbours(low, 3)
    lowest = left.maximum(centre).maximum(right)
    left, centre, right = _neighbours(high, 3)
    highest = left.minimum(centre).minimum(right)
    return _middle(lowest, _middle(*_neighbours(_middle(above, middle, below), 3)), highest)


def _neighbours(images: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What stands before each pixel along `axis`, the pixel, and what stands after it."""
    length = images.shape[axis]
    places = torch.arange(length, device=images.device)
    before, after = (places - 1).clamp(min=0), (places + 1).clamp(max=length - 1)
    return images.index_select(axis, before), images, images.index_select(axis, after)


def _middle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return a.minimum(b).maximum(a.maximum(b).minimum(c))
