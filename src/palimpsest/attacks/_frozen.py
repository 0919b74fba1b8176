"""A copy of a network on which inputs are searched: weights get no gradients, BatchNorm is folded into convolutions.

Both save a white-box attack work in each step and leave the function as it is.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def frozen(model: nn.Module, probe: torch.Tensor) -> nn.Module:
    """Return a copy of `model`, which must be in evaluation mode; the copy's weights lie channels-last.

    probe: a few images (N, C, H, W) as the network takes them. Modules are assumed to compute in the order in which
    they were registered. Where they do not, `probe` shows it, and nothing is folded.
    """
    copy = deepcopy(model).requires_grad_(False)
    for parent in copy.modules():
        children = list(parent.named_children())
        for (name, module), (after, norm) in pairwise(children):
            if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(module, norm))
                setattr(parent, after, nn.Identity())
    copy = copy.requires_grad_(False).to(memory_format=torch.channels_last)
    with torch.no_grad():
        same = torch.allclose(copy(probe), model(probe), rtol=1e-2, atol=1e-2)
    return copy if same else deepcopy(model).requires_grad_(False)
