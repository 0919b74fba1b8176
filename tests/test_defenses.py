"""The contract of every file in defenses/, and each purifier against something independent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

from palimpsest.data import Samples
from palimpsest.defenses import bit_depth, denoiser, gaussian_blur, jpeg, median
from palimpsest.models import Diverged
from palimpsest.pipeline import method

METHODS = method.files("defenses")


def smooth(count: int, channels: int, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Images with something to see: a coarse random pattern, blown up."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").mul(255).to(torch.uint8)


def noisy(images: torch.Tensor, levels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (images + torch.randint(-levels, levels + 1, images.shape, generator=generator)).clamp(0, 255).byte()


@cache
def purifier(name: str, channels: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A method as the workflow calls it: with what it has learned, where it has something to learn."""
    module = import_module(f"palimpsest.defenses.{name}")
    if not hasattr(module, "prepare"):
        return module.purify
    retain = Samples(smooth(20, channels), torch.zeros(20, dtype=torch.int64))
    kept = module.prepare(retain, 3, noise="64/255", steps=150, batch_size=16, lr=4e-3)
    return lambda images: module.purify(images, kept)


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    @pytest.mark.parametrize("shape", [(6, 1, 16, 16), (6, 3, 16, 16), (1, 1, 8, 8), (2, 3, 7, 9)])
    def test_images_come_back_in_their_form_and_changed_and_the_same_again(
        self, name: str, shape: tuple[int, int, int, int]
    ) -> None:
        purify = purifier(name, shape[1])
        images = noisy(smooth(*shape), 12)
        before = images.clone()
        made = purify(images)
        assert made.dtype == torch.uint8 and made.shape == images.shape and made.device == images.device
        assert torch.equal(images, before) and made.data_ptr() != images.data_ptr()
        assert not torch.equal(made, images)
        assert torch.equal(made, purify(images))
        assert torch.corrcoef(torch.stack([made.flatten(), images.flatten()]).float())[0, 1] > 0.8, "and show the same"

    def test_no_images_give_none(self, name: str) -> None:
        made = purifier(name, 1)(smooth(3, 1)[:0])
        assert made.shape == (0, 1, 16, 16) and made.dtype == torch.uint8

    def test_each_image_is_purified_alone_wherever_it_stands_in_memory(self, name: str) -> None:
        purify = purifier(name, 3)
        images = noisy(smooth(5, 3), 12)
        together = purify(images.contiguous(memory_format=torch.channels_last))
        alone = torch.cat([purify(image[None]) for image in images])
        # Another order of summing may tip a rounding.
        assert (together.int() - alone.int()).abs().max() <= 1 and (together == alone).float().mean() > 0.999


# ITU-T T.81, table K.1.
LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]


@pytest.mark.parametrize(("quality", "percent"), [(75, 50), (20, 250)])
def test_jpeg_quantises_the_cosine_transform_of_each_block_by_the_standards_table(quality: int, percent: int) -> None:
    # Away from black and white, where clipping would hide what the codec did.
    images = noisy(smooth(20, 1, 16, 24), 20) // 2 + 64
    table = np.maximum((np.array(LUMINANCE) * percent + 50) // 100, 1)
    made, rest = jpeg.purify(images, quality=quality).numpy(), []
    for n, row, column in np.ndindex(20, 2, 3):
        block = np.s_[n, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        before, after = (fft.dctn(array[block] - 128.0, norm="ortho") / table for array in (images.numpy(), made))
        # What lies halfway to within libjpeg's integer arithmetic may go either way.
        clear = np.abs(before % 1 - 0.5) > 0.01
        assert np.array_equal(np.round(before)[clear], np.round(after)[clear])
        rest.append(np.abs(after - np.round(after)).mean())
    assert max(rest) < 0.05, "whole multiples are left, but for rounded pixels; untouched ones lie anywhere"


def test_jpeg_keeps_each_channel_in_its_place() -> None:
    images = smooth(4, 3, 20, 28)
    images[:, 0], images[:, 1] = 200, 30
    made = jpeg.purify(images, quality=95).float()
    assert (made - images.float()).abs().mean((0, 2, 3)).max() < 4


@pytest.mark.parametrize(("sigma", "kernel"), [(1.0, 5), (0.6, 3), (2.0, 9)])
def test_gaussian_blur_is_the_weighted_mean_of_the_definition(sigma: float, kernel: int) -> None:
    images = torch.randint(0, 256, (3, 3, 12, 15), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = gaussian_blur.purify(images, sigma=sigma, kernel=kernel, batch_size=2)
    wanted = ndimage.gaussian_filter(
        images.double().numpy(), sigma=(0, 0, sigma, sigma), radius=(0, 0, kernel // 2, kernel // 2), mode="mirror"
    )
    assert np.abs(made.double().numpy() - wanted).max() <= 0.5 + 1e-3


def test_median_is_the_middle_of_nine() -> None:
    images = torch.randint(0, 256, (3, 3, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.array_equal(median.purify(images).numpy(), wanted)


def test_bit_depth_gives_the_nearest_of_evenly_spaced_levels() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert bit_depth.purify(every).flatten().tolist() == [(level + 8) // 17 * 17 for level in range(256)]
    assert bit_depth.purify(every, bits=1).flatten().tolist() == [0] * 128 + [255] * 128
    assert torch.equal(bit_depth.purify(every, bits=8), every)
    for bits in range(1, 9):
        levels = bit_depth.purify(every, bits=bits).unique()
        assert len(levels) == 2**bits and levels[0] == 0 and levels[-1] == 255


@pytest.fixture(scope="module")
def learned() -> dict[str, torch.Tensor]:
    return denoiser.prepare(Samples(smooth(800, 1), torch.zeros(800, dtype=torch.int64)), 3, steps=300)


def test_the_denoiser_brings_unseen_noisy_images_nearer_and_leaves_clean_ones(
    learned: dict[str, torch.Tensor],
) -> None:
    unseen = smooth(100, 1, seed=1)

    def error(images: torch.Tensor) -> float:
        return (images.float() - unseen.float()).square().mean().item()

    hit = noisy(unseen, 16)
    assert error(denoiser.purify(hit, learned)) < 0.6 * error(hit)
    assert error(denoiser.purify(unseen, learned)) < 0.1 * error(hit)


def test_the_denoisers_weights_depend_on_seed_and_images_alone_and_can_be_saved() -> None:
    images = Samples(smooth(40, 1), torch.zeros(40, dtype=torch.int64))
    state = torch.get_rng_state()
    first = denoiser.prepare(images, 3, steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    denoiser.purify(images.images, first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    second, other = denoiser.prepare(images, 3, steps=3), denoiser.prepare(images, 4, steps=3)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and tensor.is_contiguous() and tensor.dtype == torch.float32
        assert not tensor.requires_grad
    assert not torch.equal(first["layers.1.weight"], other["layers.1.weight"])
    assert 10_000 < sum(tensor.numel() for tensor in first.values()) < 30_000


def test_a_denoiser_whose_training_left_the_numbers_is_none() -> None:
    with pytest.raises(Diverged, match="weights after training are not finite"):
        denoiser.prepare(Samples(smooth(40, 1), torch.zeros(40, dtype=torch.int64)), 3, steps=20, lr=1e30)


def test_an_untrained_denoiser_is_the_identity() -> None:
    images = noisy(smooth(4, 3, 7, 9), 30)
    kept = denoiser.prepare(Samples(images, torch.zeros(4, dtype=torch.int64)), 3, steps=0)
    assert torch.equal(denoiser.purify(images, kept), images)


@pytest.mark.parametrize(
    ("module", "keywords", "said"),
    [
        (jpeg, {"quality": 0}, r"jpeg: quality cannot be 0; it takes a whole number in \[1, 100\]"),
        (gaussian_blur, {"kernel": 4}, "kernel is odd"),
        (gaussian_blur, {"kernel": 33}, "16 pixels"),
        (gaussian_blur, {"sigma": 0.0}, r"sigma cannot be 0.0; it takes a number in \(0, inf\)"),
        (bit_depth, {"bits": 9}, r"bits cannot be 9; it takes a whole number in \[1, 8\]"),
    ],
)
def test_values_out_of_range_are_refused_in_a_sentence(module: Any, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module.purify(smooth(2, 1), **keywords)


def test_jpeg_refuses_two_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        jpeg.purify(smooth(2, 2))
