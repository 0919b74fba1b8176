"""A small, wide convolutional network for colour images of 32 pixels, which trains in a few epochs.

The ideas are those of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (https://arxiv.org/abs/2404.00498): a
fixed first layer that whitens patches, three groups of two wide convolutions, a high rate and a short schedule. Ours
whitens without looking at the training data. The principal components of natural patches are nearly those of the cosine
transform (luminance and two colour differences), and BatchNorm gives each unit variance. So the first layer knows
nothing of the images that shall be forgotten.
"""

import math
from typing import Annotated

import torch
from torch import nn

from palimpsest.ranges import checked

SIDE = 2  # pixels of a patch, as in the paper


@checked
def build(
    classes: int,
    channels: int,
    *,
    width: Annotated[int, "[1, inf)"] = 64,
    scale: Annotated[float, "(0, inf)"] = 1 / 9,
) -> nn.Module:
    """Images (N, channels, H, W), H and W of 24 or more, to logits (N, classes).

    width: channels of the first group; the others have four times as many. scale: of the logits, against the rate with
    which the last layer learns.
    """
    filters = 2 * channels * SIDE**2
    return nn.Sequential(
        Whitened(channels),
        *_group(filters, width),
        *_group(width, 4 * width),
        *_group(4 * width, 4 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes, bias=False),
        Scaled(scale),
    )


class Whitened(nn.Module):
    """Cosine coefficients of each patch with unit variance over the batch, and their negatives."""

    weight: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rows, colours = cosines(SIDE), cosines(channels)
        weight = torch.einsum("ac,bi,dj->abdcij", colours, rows, rows).reshape(-1, channels, SIDE, SIDE)
        self.register_buffer("weight", weight)
        self.norm = nn.BatchNorm2d(len(weight), affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.norm(nn.functional.conv2d(images, self.weight.to(images.dtype)))
        return nn.functional.relu(torch.cat((found, -found), 1))


class Scaled(nn.Module):
    """A factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.factor


def cosines(size: int) -> torch.Tensor:
    """The orthonormal cosine basis (size, size), the constant first: DCT-II."""
    place = torch.arange(size)
    basis = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _group(before: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
