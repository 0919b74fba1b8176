"""The Inception network of the Inception score and the Fréchet distance, torch-fidelity's, as an observer.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; the scores are defined on the
weights that TensorFlow published on 2015-12-05, with its slips in three pooling layers, so no other network of this
name will do. torch-fidelity's own extractor cannot be built without its file of weights, takes no floats, and has no
layer that features can be caught at; here its blocks stand in a row, under its names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE_1,
    InceptionE_2,
)
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from palimpsest.models import ModelError, Pretrained

CLASSES, CHANNELS, SIDE = 1008, 3, 299
# TensorFlow's graph takes grey levels less 128, by 128.
MEAN = STD = (128 / 255,) * CHANNELS


def build(classes: int, channels: int) -> nn.Module:
    """Colour images (N, 3, H, W) of any size to logits (N, 1008), and what enters `fc` are the 2,048 features.

    classes: not read. There are always 1,008, as in the published graph; whoever wants `features.penultimate` says so.
    `fc` has no bias, since the Inception score takes the logits without it. Raises `ModelError` for other than three
    channels.
    """
    if channels != CHANNELS:
        raise ModelError(f"inception: the network sees {CHANNELS} channels, and these images have {channels}")
    return nn.Sequential(
        OrderedDict(
            resized=Resized(),
            Conv2d_1a_3x3=BasicConv2d(3, 32, kernel_size=3, stride=2),
            Conv2d_2a_3x3=BasicConv2d(32, 32, kernel_size=3),
            Conv2d_2b_3x3=BasicConv2d(32, 64, kernel_size=3, padding=1),
            MaxPool_1=nn.MaxPool2d(3, stride=2),
            Conv2d_3b_1x1=BasicConv2d(64, 80, kernel_size=1),
            Conv2d_4a_3x3=BasicConv2d(80, 192, kernel_size=3),
            MaxPool_2=nn.MaxPool2d(3, stride=2),
            Mixed_5b=InceptionA(192, pool_features=32),
            Mixed_5c=InceptionA(256, pool_features=64),
            Mixed_5d=InceptionA(288, pool_features=64),
            Mixed_6a=InceptionB(288),
            Mixed_6b=InceptionC(768, channels_7x7=128),
            Mixed_6c=InceptionC(768, channels_7x7=160),
            Mixed_6d=InceptionC(768, channels_7x7=160),
            Mixed_6e=InceptionC(768, channels_7x7=192),
            Mixed_7a=InceptionD(768),
            Mixed_7b=InceptionE_1(1280),
            Mixed_7c=InceptionE_2(2048),
            AvgPool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(2048, CLASSES, bias=False),
        )
    )


def pretrained(net: nn.Module, published: Mapping[str, torch.Tensor]) -> Pretrained:
    """torch-fidelity's own names are the network's; all of it is taken but the bias of `fc`.

    The file is weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release v0.2.0, sha256
    6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2.
    """
    return Pretrained({name: one for name, one in published.items() if name != "fc.bias"}, "", MEAN, STD)


class Resized(nn.Module):
    """Images (N, C, H, W) to (N, C, 299, 299) by the bilinear interpolation of TensorFlow 1, as the graph has it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return interpolate_bilinear_2d_like_tensorflow1x(images, size=(SIDE, SIDE), align_corners=False)
