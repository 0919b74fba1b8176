"""Images enlarged inside a network, so that attacks and epsilons stay in the data set's own pixels."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F


def resized(net: nn.Module, side: int | None) -> nn.Module:
    """Return `net`, which now sees its images as (N, C, side, side), by bilinear interpolation; None leaves them.

    The names of its weights stay as they are.
    """
    if side is not None:
        net.register_forward_pre_hook(lambda _, given: F.interpolate(given[0], (side, side), mode="bilinear"))
    return net
