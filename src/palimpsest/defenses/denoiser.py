"""Denoiser: a small convolutional network that has learned, on retained images, to take noise away.

    min_g E ||g(x + delta) - x||^2,   delta ~ U(-a, a) for each pixel, a ~ U(0, 16/255) for each image

The paper's "denoising module" (Section 5.3) is not described. Ours [R] is a residual network in the manner of FFDNet
(Zhang, Zuo and Zhang, 2018), g(x) = x + h(x): blocks of 2 x 2 pixels become channels, four 3 x 3 convolutions of 32
channels, and back; about 20,000 weights, a quarter of the work of full resolution. It starts as the identity, and the
noise begins at none, so that clean queries stay nearly what they are. 16/255 is the papers' largest epsilon; noise is
uniform, not an attack's: the module is not told which attack will come.
Values [R]: Adam, 2e-3 falling to zero along a cosine, 1,000 batches of 64 drawn at random: less than a minute on one
core at 32 x 32 pixels, however many images there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.data import Samples
from palimpsest.models import finite
from palimpsest.ranges import checked

# The network answers in units of the noise: without it, Adam's first steps are many times what is to be predicted.
RESIDUE = 16 / 255


class Denoiser(nn.Module):
    """Float images in [0, 1], (N, C, H, W) with H and W even, to images of that shape, not clamped."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels + RESIDUE * self.layers(pixels - 0.5)


@checked
def prepare(
    retain: Samples,
    seed: int,
    *,
    noise: Annotated[str, "(0, 1]"] = "16/255",
    width: Annotated[int, "[1, inf)"] = 32,
    steps: Annotated[int, "[0, inf)"] = 1000,
    batch_size: Annotated[int, "[1, inf)"] = 64,
    lr: Annotated[float, "(0, inf)"] = 2e-3,
) -> dict[str, torch.Tensor]:
    """Train on the retained images; the weights by name, float32, on the images' device.

    noise: largest amplitude, a fraction of the pixel range, as text. width: channels between the layers.
    Raises `Diverged` where a weight is not finite at the end.
    """
    images = retain.images
    device = images.device
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Denoiser(images.shape[1], width)
    last = network.layers[-2]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        index = torch.randint(len(images), (batch_size,), generator=generator)
        clean = _even(images[index.to(device)].float().div_(255))
        amplitude = float(Fraction(noise)) * torch.rand(len(index), 1, 1, 1, generator=generator)
        delta = amplitude * torch.rand(clean.shape, generator=generator).mul_(2).sub_(1)
        loss = F.mse_loss(network((clean + delta.to(device)).clamp_(0, 1)), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
    finite(network, "denoiser: its weights after training")
    return {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}


@checked
def purify(
    images: torch.Tensor, kept: Mapping[str, torch.Tensor], *, batch_size: Annotated[int, "[1, inf)"] = 500
) -> torch.Tensor:
    """`images` `uint8` (N, C, H, W) through the network, clamped and rounded to whole levels.

    kept: what `prepare` gave for images of as many channels. batch_size: images at once.
    """
    width, inputs = kept["layers.1.weight"].shape[:2]
    with torch.device("meta"):  # no weights are drawn only to be replaced
        network = Denoiser(inputs // 4, width)
    network.load_state_dict(dict(kept), assign=True)
    network.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    purified = torch.empty_like(images)
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            made = network(_even(images[part].float().div_(255)))[..., : images.shape[2], : images.shape[3]]
            purified[part] = made.clamp_(0, 1).mul_(255).round_()
    return purified


def _even(pixels: torch.Tensor) -> torch.Tensor:
    """Float images with the last row and column repeated where their number is odd."""
    return F.pad(pixels, (0, pixels.shape[3] % 2, 0, pixels.shape[2] % 2), mode="replicate")
