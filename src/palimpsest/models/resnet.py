"""ResNet-18 and ResNet-50 (He et al., CVPR 2016), torchvision's, with the stem for small images or for ImageNet.

The CIFAR stem is a 3x3 convolution of stride 1 without pooling, as in the public code of SalUn that the UMA
paper's peers use; the ImageNet stem is torchvision's 7x7 convolution of stride 2 with pooling (docs/methods.md 2.1).
Published weights are torchvision's, of the ImageNet stem.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from palimpsest.models import Pretrained
from palimpsest.models._resized import resized
from palimpsest.ranges import checked

# Of ImageNet's images in [0, 1], as torchvision's weights were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@checked
def build(
    classes: int,
    channels: int,
    *,
    depth: Literal[18, 50] = 18,
    stem: Literal["cifar", "imagenet"] = "cifar",
    width: Annotated[int, "[1, inf)"] = 64,
    resize: Annotated[int, "[1, inf)"] | None = None,
) -> nn.Module:
    """Images (N, channels, H, W) to logits (N, classes).

    width: channels of the first stage; 64 is the published network, less is a narrow one for small machines. resize: to
    how many pixels a side the network enlarges its images; none leaves them.
    """
    block, layers = {18: (BasicBlock, [2, 2, 2, 2]), 50: (Bottleneck, [3, 4, 6, 3])}[depth]
    net = ResNet(block, layers, num_classes=classes)
    if width != 64:  # torchvision fixes the width of its stages; they are made again, narrower
        net.inplanes = width
        net.bn1 = nn.BatchNorm2d(width)
        for stage, count in enumerate(layers):
            made = net._make_layer(block, width * 2**stage, count, stride=1 if stage == 0 else 2)
            setattr(net, f"layer{stage + 1}", made)
        net.fc = nn.Linear(8 * width * block.expansion, classes)
    if stem == "cifar":
        net.conv1 = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    else:
        net.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return resized(net, resize)


def pretrained(net: nn.Module, published: Mapping[str, torch.Tensor]) -> Pretrained:
    """Torchvision's own names are the network's."""
    return Pretrained(published, "fc", MEAN, STD)
