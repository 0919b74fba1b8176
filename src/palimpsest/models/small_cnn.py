"""A small convolutional network for images from 8 pixels on: conv-conv-pool-fc.

The healing paper's "small custom CNN" (Section 5.1) is not described; conv32-conv64-pool-fc128 is our decision
(docs/methods.md 2.1). It also stands in for ResNets at the demo scale.
"""

from typing import Annotated

from torch import nn

from palimpsest.ranges import checked


@checked
def build(
    classes: int,
    channels: int,
    *,
    width: Annotated[int, "[1, inf)"] = 32,
    hidden: Annotated[int, "[1, inf)"] = 128,
) -> nn.Module:
    """Images (N, channels, H, W) of any size to logits (N, classes).

    width: channels of the first convolution, the second has twice as many. hidden: units before the last layer.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
