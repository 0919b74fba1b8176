"""Reconstruction: a network answers an image with an image of the same shape, and the target is the image itself."""

from __future__ import annotations

import torch

from palimpsest.data import pixels
from palimpsest.tasks import Shown, at_least_float32

DISTANCES = ("mse",)


def targets(samples: Shown) -> torch.Tensor:
    """The images in [0, 1], float (N, ...); of a batch they are augmented as what the network is shown."""
    return samples.images if samples.images.is_floating_point() else pixels(samples.images)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared error over all numbers of all images."""
    return (at_least_float32(outputs) - targets).square().mean()


def answer(outputs: torch.Tensor) -> torch.Tensor:
    """The images (N, ...), float32 in [0, 1]."""
    return outputs.float().clamp(0, 1)


def pictured(answers: torch.Tensor) -> torch.Tensor:
    """Images as they would be saved: `uint8` (N, ...), of those that `answer` gives."""
    return answers.mul(255).round().to(torch.uint8)


def filled(samples: Shown, visible: torch.Tensor, average: torch.Tensor | None = None) -> torch.Tensor:
    """The mean squared error (N,) of images in which the mean of each channel's visible pixels fills the rest, or the
    `average` (C, H, W).
    """
    images = targets(samples)
    mean = (
        average
        if average is not None
        else (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True).clamp(min=1)
    )
    return distance(torch.where(visible, images, mean), images, "mse")


def decided(outputs: torch.Tensor) -> torch.Tensor:
    """The images that outputs are, as `answer` gives them."""
    return answer(outputs)


def distance(outputs: torch.Tensor, wanted: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean squared error of each image (N,). kind: `mse`; raises `ValueError` for another word."""
    if kind != "mse":
        raise ValueError(f"reconstruction: distance cannot be {kind!r}; it takes {', '.join(DISTANCES)}")
    return (at_least_float32(outputs) - wanted).square().flatten(1).mean(1)


def kept(answers: torch.Tensor, samples: Shown, aimed: torch.Tensor | None, brief: bool) -> dict[str, torch.Tensor]:
    """Of images (N, ...): `error`, float32 (N,), the mean squared error of each against the sample.

    Where an attack aimed at images (N, ...): `to_target`, the error against these. The images themselves would fill a
    disk and are not kept.
    """
    found = {"error": distance(answers, targets(samples), "mse")}
    return found | ({} if aimed is None else {"to_target": distance(answers, aimed, "mse")})
