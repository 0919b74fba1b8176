"""LeNet-5 (LeCun et al., Proc. IEEE 1998) as the label-leakage paper's MNIST recipe uses it.

Convolutions of 6 and 16 channels, 5x5, fully connected layers of 120, 84 and `classes` units (docs/methods.md 2.1).
"""

from torch import nn


def build(classes: int, channels: int) -> nn.Module:
    """Images (N, channels, 28, 28) or (N, channels, 32, 32) to logits (N, classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(5),  # on 28 pixels the usual 2x2 pooling; it also takes 32 pixels
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
