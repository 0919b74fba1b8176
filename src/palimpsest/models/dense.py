"""Fully connected layers on features or on the pixels of small images: the malicious paper's network for Dogfish.

The paper has two layers and does not say how wide the hidden one is (its Section 5.1); 128 units are our decision.
"""

from typing import Annotated

from torch import nn

from palimpsest.ranges import checked


@checked
def build(
    classes: int,
    channels: int,
    *,
    hidden: Annotated[int, "[1, inf)"] = 128,
    side: Annotated[int, "[1, inf)"] | None = None,
) -> nn.Module:
    """Features (N, channels), or images (N, channels, H, W), to logits (N, classes).

    hidden: units between the two layers. side: of images, the pixels a side; others are averaged to that. None takes
    features.
    """
    before = [] if side is None else [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    inputs = channels * (side or 1) ** 2
    return nn.Sequential(*before, nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
