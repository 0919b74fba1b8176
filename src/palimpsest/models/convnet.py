"""A network of five 3x3 convolutions with BatchNorm and one dense layer: the malicious paper's "6-layer ConvNet".

The paper does not describe it (its Section 5.1). Channels w, 2w, 2w, 4w, 4w and pooling after the second, the fourth
and the last are our decision (docs/methods.md 2.1).
"""

from itertools import pairwise
from typing import Annotated

from torch import nn

from palimpsest.ranges import checked


@checked
def build(classes: int, channels: int, *, width: Annotated[int, "[1, inf)"] = 32) -> nn.Module:
    """Images (N, channels, H, W) of 8 pixels or more to logits (N, classes). width: channels of the first layer."""
    widths = [channels, width, 2 * width, 2 * width, 4 * width, 4 * width]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if number in (1, 3):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes))
