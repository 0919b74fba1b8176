"""VGG-16 with BatchNorm (Simonyan, Zisserman, ICLR 2015), torchvision's layers, for small images.

One dense layer on the mean of the last feature map stands in the place of ImageNet's three, as is usual at 32 and 64
pixels; the malicious paper says VGG-16 alone (its Section 5.1).
"""

from typing import Annotated, cast

from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from palimpsest.ranges import checked


@checked
def build(classes: int, channels: int, *, width: Annotated[int, "[1, inf)"] = 64) -> nn.Module:
    """Images (N, channels, H, W) of 32 pixels or more to logits (N, classes).

    width: channels of the first layer; 64 is the published network, less is a narrow one for small machines.
    """
    layers = make_layers([one if one == "M" else int(one) * width // 64 for one in cfgs["D"]], batch_norm=True)
    first = cast(nn.Conv2d, layers[0])
    layers[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))
