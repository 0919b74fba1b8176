"""MobileNetV2 (Sandler et al., CVPR 2018), torchvision's, with the strides for small images.

The first convolution and the second stage have stride 1, so that 32 pixels become 4 at the end; the malicious paper
says MobileNetV2 alone (its Section 5.1), the strides are our decision (docs/methods.md 2.1).
"""

from typing import Annotated, cast

from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

from palimpsest.ranges import checked

# Of each stage: expansion, channels, blocks, stride (the publication's Table 2, with the second stride 1 for 2).
STAGES = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]


@checked
def build(classes: int, channels: int, *, width: Annotated[float, "(0, inf)"] = 1.0) -> nn.Module:
    """Images (N, channels, H, W) of 16 pixels or more to logits (N, classes).

    width: of every stage, as a share of the published one.
    """
    net = MobileNetV2(num_classes=classes, width_mult=width, inverted_residual_setting=STAGES, dropout=0.0)
    stem = cast(nn.Sequential, net.features[0])
    stem[0] = nn.Conv2d(channels, cast(nn.Conv2d, stem[0]).out_channels, 3, stride=1, padding=1, bias=False)
    return net
