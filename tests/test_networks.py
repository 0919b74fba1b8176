"""Networks of our own making: what their fixed parts compute."""

from __future__ import annotations

import pytest
import torch
import torchvision
from scipy.fft import dctn

from palimpsest import models
from palimpsest.models import mobilenet, vgg, whitened_cnn


def made(seed: int) -> models.Network:
    spec = models.Spec("whitened_cnn", 10, 3, {"width": 4})
    return models.create(spec, torch.zeros(3), torch.ones(3), seed)


def test_the_first_layer_gives_the_cosine_coefficients_of_each_patch() -> None:
    patches = torch.rand(5, 3, whitened_cnn.SIDE, whitened_cnn.SIDE, dtype=torch.float64)
    weight = whitened_cnn.Whitened(3).weight.double()
    found = torch.nn.functional.conv2d(patches, weight).flatten(1)
    expected = torch.stack([torch.as_tensor(dctn(patch.numpy(), norm="ortho")).flatten() for patch in patches])
    assert found == pytest.approx(expected, abs=1e-6)


def test_whitened_patches_have_unit_variance_and_their_negatives_stand_beside_them() -> None:
    torch.manual_seed(0)
    layer = whitened_cnn.Whitened(3).train()
    found = layer(torch.rand(64, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.1]).reshape(1, 3, 1, 1))
    positive, negative = found.chunk(2, 1)
    assert bool(((positive == 0) | (negative == 0)).all())
    signed = positive - negative
    assert signed.std((0, 2, 3), correction=0) == pytest.approx(torch.ones(12), abs=1e-2)


def test_nothing_of_the_first_layer_is_drawn_or_learnt() -> None:
    one, other = (made(seed).net[0] for seed in (0, 1))
    assert torch.equal(one.weight, other.weight) and not list(one.parameters())
    assert not torch.equal(made(0).net[1].weight, made(1).net[1].weight)


def test_logits_are_scaled() -> None:
    model, images = made(0).train(), torch.rand(2, 3, 32, 32)
    found = model(images).detach()
    assert found.shape == (2, 10)
    model.net[-1].factor = 1.0
    torch.testing.assert_close(model(images).detach() / 9, found)
    assert float(found.abs().max()) > 0.01


@pytest.mark.parametrize(
    "method, keywords, shape",
    [
        ("dense", {}, (3, 40)),
        ("dense", {"side": 4}, (3, 1, 8, 8)),
        ("convnet", {"width": 4}, (3, 1, 8, 8)),
        ("convnet", {"width": 4}, (3, 3, 32, 32)),
        ("vgg", {"width": 8}, (3, 3, 32, 32)),
        ("vgg", {"width": 8}, (3, 3, 64, 64)),
        ("mobilenet", {"width": 0.25}, (3, 3, 32, 32)),
    ],
)
def test_the_malicious_papers_networks_take_their_images_and_every_weight_counts(method, keywords, shape) -> None:
    channels = shape[1]
    form = (channels,) if len(shape) == 4 else (1, channels)
    model = models.create(models.Spec(method, 7, channels, keywords), torch.zeros(form), torch.ones(form), 0).train()
    found = model(torch.rand(shape))
    assert found.shape == (3, 7)
    found.square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters())


def test_a_dense_network_on_images_takes_each_pixel_by_itself() -> None:
    model = models.create(models.Spec("dense", 2, 1, {"side": 3}), torch.zeros(1), torch.ones(1), 0).eval()
    image = torch.rand(1, 1, 3, 3)
    _, _, first, _, last = model.net
    expected = last(torch.relu(first(image.flatten(1))))
    torch.testing.assert_close(model(image), expected)


def test_the_published_networks_have_as_many_weights_as_torchvisions() -> None:
    def weights(net: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in net.parameters())

    assert weights(vgg.build(10, 3)) == weights(torchvision.models.vgg16_bn().features) + 512 * 10 + 10
    assert weights(mobilenet.build(10, 3)) == weights(torchvision.models.mobilenet_v2(num_classes=10))


def test_small_images_keep_four_pixels_a_side_to_the_end_of_a_mobilenet() -> None:
    assert mobilenet.build(10, 3).features(torch.rand(1, 3, 32, 32)).shape[2:] == (4, 4)
