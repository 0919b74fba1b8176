"""The masked autoencoder against a forward by hand, its mask, the released layout; and the Inception network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from card import REAL, card
from safetensors.torch import save_file
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from palimpsest import features, models, pretrained, train
from palimpsest.data import Samples, digits, pixels
from palimpsest.models import inception, mae, resnet
from palimpsest.tasks import reconstruction

MEND = "get it anew"
# A network that learns the digits' 16 patches in seconds, and how.
DEMO: dict[str, Any] = {"width": 48, "depth": 1, "heads": 2, "decoder_width": 48, "decoder_depth": 1}
DEMO |= {"decoder_heads": 2}
RECIPE: dict[str, Any] = {"epochs": 20, "batch_size": 64, "lr": 6e-3, "optimizer": "adamw", "betas": (0.9, 0.95)}
RECIPE |= {"weight_decay": 0.05, "schedule": "cosine", "warmup_epochs": 2}
SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "decoder_width": 8, "decoder_depth": 1}
SMALL |= {"decoder_heads": 2}
# Height, width, channels and the side of a patch; a square and a rectangle.
GRIDS = [((8, 8), 3, 4), ((8, 16), 1, 2)]
every_grid = pytest.mark.parametrize(("size", "channels", "patch"), GRIDS)


def built(size: tuple[int, int], channels: int, patch: int, seed: int = 0, **keywords: Any) -> Any:
    """A network none of whose weights is a constant, so that each has a part in what it answers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = mae.build(10, channels, side=list(size), patch=patch, **{**SMALL, **keywords}).eval()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    return net


def shown(size: tuple[int, int], channels: int, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, channels, *size, generator=generator)
    return images, torch.randint(-(2**62), 2**62, (count,), generator=generator)


def released(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors by the names of facebookresearch/mae."""
    inner = {"mask_token": "mask_token"}
    inner |= {f"{name}.": f"decoder_{name}." for name in ("embed", "blocks", "norm", "pred")}
    inner |= {"pos_embed": "decoder_pos_embed"}
    found = {}
    for name, tensor in net.state_dict().items():
        half, _, rest = name.partition(".")
        if half == "decoder":
            begin = next(begin for begin in inner if rest.startswith(begin))
            rest = inner[begin] + rest.removeprefix(begin)
        found[rest] = tensor
    return found


# A forward by hand, of one image at a time, from the released names alone


def place_by_hand(row: int, column: int, width: int) -> torch.Tensor:
    """The embedding of a place: sines and cosines of the column, then of the row."""
    numbers = []
    for place in (column, row):
        for wave in (math.sin, math.cos):
            numbers += [wave(place / 10000 ** (index / (width / 4))) for index in range(width // 4)]
    return torch.tensor(numbers)


def block_by_hand(x: torch.Tensor, state: dict[str, torch.Tensor], name: str, heads: int) -> torch.Tensor:
    """One transformer block on tokens (T, D)."""

    def dense(x: torch.Tensor, part: str) -> torch.Tensor:
        return x @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"]

    def normed(x: torch.Tensor, part: str) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.{part}.weight"] + state[f"{name}.{part}.bias"]

    q, k, v = dense(normed(x, "norm1"), "attn.qkv").chunk(3, 1)
    found = []
    for one in range(heads):
        size = x.shape[1] // heads
        cut = slice(one * size, (one + 1) * size)
        found.append((q[:, cut] @ k[:, cut].T / size**0.5).softmax(1) @ v[:, cut])
    x = x + dense(torch.cat(found, 1), "attn.proj")
    inner = dense(normed(x, "norm2"), "mlp.fc1")
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return x + dense(inner, "mlp.fc2")


def answer_by_hand(
    image: torch.Tensor, seen: torch.Tensor, state: dict[str, torch.Tensor], patch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features and the whole image. image: (C, H, W). seen: bool (H, W)."""
    channels, height, width = image.shape
    places = [(row, column) for row in range(0, height, patch) for column in range(0, width, patch)]
    visible = [(row, column) for row, column in places if seen[row, column]]
    kernel = state["patch_embed.proj.weight"]
    tokens = [state["cls_token"][0, 0]]
    for row, column in visible:
        cut = image[:, row : row + patch, column : column + patch]
        token = (kernel * cut).sum((1, 2, 3)) + state["patch_embed.proj.bias"]
        tokens.append(token + place_by_hand(row // patch, column // patch, len(token)))
    x = torch.stack(tokens)
    for depth in range(SMALL["depth"]):
        x = block_by_hand(x, state, f"blocks.{depth}", SMALL["heads"])
    features = F.layer_norm(x, x.shape[1:], state["norm.weight"], state["norm.bias"], 1e-6)

    y = features @ state["decoder_embed.weight"].T + state["decoder_embed.bias"]
    given = dict(zip(visible, y[1:], strict=True))
    tokens = [y[0]]
    for row, column in places:
        token = given.get((row, column), state["mask_token"][0, 0])
        tokens.append(token + place_by_hand(row // patch, column // patch, len(token)))
    y = torch.stack(tokens)
    for depth in range(SMALL["decoder_depth"]):
        y = block_by_hand(y, state, f"decoder_blocks.{depth}", SMALL["decoder_heads"])
    y = F.layer_norm(y, y.shape[1:], state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
    y = y @ state["decoder_pred.weight"].T + state["decoder_pred.bias"]
    whole = image.clone()
    for (row, column), numbers in zip(places, y[1:], strict=True):
        if not seen[row, column]:
            for i in range(patch):
                for j in range(patch):
                    for channel in range(channels):
                        whole[channel, row + i, column + j] = numbers[(i * patch + j) * channels + channel]
    return features, whole


@every_grid
def test_it_computes_what_a_forward_by_hand_computes(size: tuple[int, int], channels: int, patch: int) -> None:
    net, (images, keys) = built(size, channels, patch), shown(size, channels)
    seen, state = net.visible(keys, *size), released(net)
    with torch.no_grad():
        found, encoded = net(images, keys), net.encode(images, keys)
        for image, key, whole, tokens in zip(images, seen, found, encoded, strict=True):
            features, expected = answer_by_hand(image, key[0], state, patch)
            torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(tokens, features, rtol=1e-4, atol=1e-5)


def test_both_halves_together_are_all_that_learns() -> None:
    net = built((8, 8), 1, 2)
    halves = [*net.encoder.parameters(), *net.decoder.parameters()]
    assert {id(weight) for weight in halves} == {id(weight) for weight in net.parameters()}
    assert len(halves) == len(set(map(id, halves))) and all(weight.requires_grad for weight in halves)


def test_its_norms_have_the_epsilon_of_the_release() -> None:
    norms = [module for module in built((8, 8), 1, 2).modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 8  # two in each of three blocks, and one after either half


# What is seen


@every_grid
def test_every_image_has_its_share_of_whole_patches(size: tuple[int, int], channels: int, patch: int) -> None:
    for hidden in (0.75, 0.4):
        net = built(size, channels, patch, hidden=hidden)
        seen = net.visible(shown(size, channels, 50)[1], *size)
        assert seen.dtype == torch.bool and seen.shape == (50, 1, *size)
        patches = F.unfold(seen.float(), patch, stride=patch)  # (50, pixels of a patch, patches)
        assert torch.equal(patches.amin(1), patches.amax(1))
        assert (patches[:, 0].sum(1) == round(patches.shape[2] * (1 - hidden))).all()
        assert net.encode(*shown(size, channels)).shape == (6, 1 + int(patches[0, 0].sum()), SMALL["width"])


def test_the_mask_is_a_function_of_the_key_alone() -> None:
    keys = shown((8, 8), 1, 40)[1]
    one, other = built((8, 8), 1, 2, seed=1), built((8, 8), 1, 2, seed=2, width=32)
    torch.manual_seed(3)
    expected = one.visible(keys, 8, 8)
    torch.manual_seed(4)
    assert torch.equal(expected, other.train().visible(keys, 8, 8))
    order = torch.randperm(40)
    assert torch.equal(one.visible(keys[order], 8, 8), expected[order])
    assert len({tuple(mask.flatten().tolist()) for mask in expected}) > 35


def test_keys_in_a_row_see_every_patch_and_every_pair_alike() -> None:
    count = 20000
    seen = built((8, 8), 1, 2).visible(torch.arange(count), 8, 8)[:, 0, ::2, ::2].flatten(1).double()
    share = 4 / 16
    assert (seen.mean(0) - share).abs().max() < 5 * (share * (1 - share) / count) ** 0.5
    both = seen.T @ seen / count
    pair = 4 / 16 * 3 / 15
    apart = both[~torch.eye(16, dtype=torch.bool)]
    assert (apart - pair).abs().max() < 5 * (pair * (1 - pair) / count) ** 0.5


@every_grid
def test_what_is_seen_is_answered_as_it_is_and_what_is_hidden_is_not_read(
    size: tuple[int, int], channels: int, patch: int
) -> None:
    net, (images, keys) = built(size, channels, patch), shown(size, channels)
    seen = net.visible(keys, *size).expand_as(images)
    images.requires_grad_()
    found = net(images, keys)
    assert torch.equal(found[seen], images[seen])
    assert not torch.isclose(found[~seen], images[~seen], atol=1e-4).any()
    (slope,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), images)
    assert (slope[~seen] == 0).all() and (slope[seen] != 0).all()


def test_a_card_hides_and_answers_as_the_processor_does() -> None:
    net, (images, keys) = built((8, 16), 1, 2), shown((8, 16), 1)
    with torch.no_grad():
        seen, expected = net.visible(keys, 8, 16), net(images, keys)
        with card() as device:
            there = built((8, 16), 1, 2).to(device)
            found = there(images.to(device), keys.to(device))
            assert torch.equal(there.visible(keys.to(device), 8, 16).cpu(), seen)
            assert torch.allclose(found.cpu(), expected, atol=1e-4 if REAL else 0)


def test_two_networks_are_shown_the_same_of_an_image_and_of_what_stands_in_its_place() -> None:
    nets = [
        models.create(models.Spec("mae", 10, 1, {"side": 8, "patch": 2, **SMALL}), *torch.ones(2, 1) / 2, seed)
        for seed in (0, 1)
    ]
    images = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    moved = (images + 0.1 * torch.rand(images.shape)).clamp(0, 1)
    seen = nets[0].net.visible(models.keys_of(images), 8, 8)
    with torch.no_grad():
        for net in nets:
            answer = net.eval()(moved, images)
            assert torch.equal(answer[seen], images[seen])
            assert not torch.isclose(answer[~seen], moved[~seen]).all()


def test_images_of_another_size_are_refused() -> None:
    net = built((8, 16), 1, 2)
    for call in (net, net.encode):
        with pytest.raises(models.ModelError, match=r"8x16 pixels, found 16x8; set `side`"):
            call(torch.zeros(1, 1, 16, 8), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"side": 9}, "multiples of the patch of 2 pixels, found 9"),
        ({"side": [8, 8, 8]}, "one number or two"),
        ({"side": [8, 9]}, "multiples of the patch"),
        ({"heads": 3}, "width is a multiple of 4 and of its 3 heads, found 16"),
        ({"decoder_width": 10}, "decoder_width is a multiple of 4"),
        ({"hidden": 0.99}, "hidden=0.99 leaves 0 of 16 patches to be seen"),
        ({"hidden": 0.01}, "leaves 16 of 16 patches"),
    ],
)
def test_what_does_not_fit_together_is_said_in_a_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(models.ModelError, match=said):
        mae.build(10, 1, **{"side": 8, "patch": 2, **SMALL, **wrong})


@pytest.mark.parametrize("wrong", [{"hidden": 1.0}, {"side": 0}, {"side": [8, 0]}, {"depth": 0}, {"patch": 0}])
def test_a_value_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be"):
        mae.build(10, 1, **wrong)


# The released weights


def test_the_largest_released_layout_has_as_many_weights_as_the_release() -> None:
    """ViT-L/16 with a decoder of 8 blocks of 512: counted by hand, place embeddings among them, 329.5 million."""

    def blocks(width: int, depth: int) -> int:
        dense = 3 * width * (width + 1) + width * (width + 1) + 4 * width * (width + 1) + width * (4 * width + 1)
        return depth * (dense + 4 * width) + 2 * width

    places = 14 * 14 + 1
    encoder = blocks(1024, 24) + (768 + 1) * 1024 + 1024 + places * 1024
    decoder = blocks(512, 8) + (1024 + 1) * 512 + 512 + (512 + 1) * 768 + places * 512
    with torch.device("meta"):
        state = mae.build(1000, 3).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == encoder + decoder
    assert (encoder + decoder) / 1e6 == pytest.approx(329.5, abs=0.05)


def stored(tensors: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """What is kept of tensors that were saved as facebookresearch/mae saves them."""
    torch.save({"model": tensors}, path)
    keywords = {"side": [8, 8], "patch": 4, **SMALL}
    read = pretrained.read(path, hashlib.sha256(path.read_bytes()).hexdigest(), MEND)
    return pretrained.fitted(read, mae, keywords, path, MEND)


def test_the_released_layout_is_taken_whole_with_its_normalisation(tmp_path: Path) -> None:
    source = built((8, 8), 3, 4, seed=5)
    kept = stored(released(source), tmp_path / "mae.pth")
    save_file(kept, str(tmp_path / "kept.safetensors"))
    spec = models.Spec("mae", 7, 3, {"side": 8, "patch": 4, **SMALL}, str(tmp_path / "kept.safetensors"))
    network = models.create(spec, torch.zeros(3), torch.ones(3), seed=1)
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.net.state_dict()[name], tensor), name
    assert network.mean.flatten().tolist() == pytest.approx(resnet.MEAN)
    assert network.std.flatten().tolist() == pytest.approx(resnet.STD)
    images, keys = shown((8, 8), 3)
    assert torch.equal(network.eval().net(images, keys), source(images, keys))


def test_the_names_are_those_of_the_release() -> None:
    """The names of the release, written down, with as many blocks as the small network has."""
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    both = [f"{begin}.{index}.{part}" for begin, index in (("blocks", 0), ("blocks", 1)) for part in parts]
    both += [f"decoder_blocks.0.{part}" for part in parts]
    both += ["patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred"]
    names = {f"{name}.{kind}" for name in both for kind in ("weight", "bias")}
    names |= {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed"}
    net = built((8, 8), 3, 4)
    assert released(net).keys() == names
    assert mae.pretrained(net, dict.fromkeys(names, torch.zeros(1))).state.keys() == net.state_dict().keys()


def test_foreign_weights_end_in_a_sentence(tmp_path: Path) -> None:
    tensors = released(built((8, 8), 3, 4))
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(("decoder", "mask"))}
    larger = released(built((16, 16), 3, 4))
    foreign: list[tuple[dict[str, Any], str]] = [
        (resnet.build(10, 3, width=2).state_dict(), "tensors of mae"),  # another network
        (encoder, "no decoder."),  # the release without its decoder
        ({**tensors, "head.weight": torch.zeros(2)}, "a tensor encoder.head.weight"),
        (larger, "(1, 5, 16) as the shape of mae's encoder.pos_embed"),
        ({"a": "text"}, "tensors by name"),
    ]
    for number, (some, said) in enumerate(foreign):
        path = tmp_path / f"{number}.pth"
        with pytest.raises(models.ModelError) as caught:
            stored(some, path)
        message = str(caught.value)
        assert all(part in message for part in (str(path), said, MEND)) and "\n" not in message, message


# Training


def test_it_reconstructs_digits_better_than_the_mean_of_what_is_seen(tmp_path: Path) -> None:
    data = digits.load(tmp_path)
    spec = models.Spec("mae", 10, 1, {"side": 8, "patch": 2, **DEMO})
    model = models.create(spec, *models.channel_statistics(data.train_images), 0)
    recipe = train.Recipe(**RECIPE)
    model = train.fit(model, data.splits["train"], recipe, seed=0, task=reconstruction)
    images = pixels(data.test_images)
    seen = model.net.visible(models.keys_of(images), 8, 8)
    mean = (images * seen).flatten(1).sum(1) / seen.flatten(1).sum(1)
    filled = torch.where(seen, images, mean.reshape(-1, 1, 1, 1))
    found = models.predict(model, data.test_images, task=reconstruction)

    def psnr(answer: torch.Tensor) -> float:
        return -10 * math.log10(float((answer - images).square().mean()))

    assert psnr(found) >= psnr(filled) + 3


def test_the_masks_of_a_training_are_drawn_anew_and_with_its_seed() -> None:
    samples = Samples(torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    masks: list[torch.Tensor] = []

    def trained(seed: int) -> models.Network:
        spec = models.Spec("mae", 10, 1, {"side": 8, "patch": 2, **SMALL})
        model = models.create(spec, torch.tensor([0.5]), torch.tensor([0.5]), 0)
        note = model.net.register_forward_pre_hook(lambda net, given: masks.append(net.visible(given[1], 8, 8)))
        recipe = train.Recipe(epochs=2, batch_size=8, lr=1e-3, optimizer="adamw")
        found = train.fit(model, samples, recipe, seed=seed, task=reconstruction)
        note.remove()
        return found

    one, again, other = trained(1), trained(1), trained(2)
    assert not torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    for name, tensor in one.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name]), name
    assert not torch.equal(one.net.decoder.pred.weight, other.net.decoder.pred.weight)


# The Inception network


@pytest.fixture(scope="module")
def observers(tmp_path_factory: pytest.TempPathFactory) -> tuple[models.Network, FeatureExtractorInceptionV3]:
    """Ours, through a file of random weights, and torch-fidelity's own extractor with the same file."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = inception.build(inception.CLASSES, 3)
        for module in net.modules():  # so that the values neither vanish nor grow, and each number has a part
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.1)
        bias = torch.randn(inception.CLASSES)
    path = folder / "inception.pth"
    torch.save({**net.state_dict(), "fc.bias": bias}, path)
    tensors = pretrained.read(path, hashlib.sha256(path.read_bytes()).hexdigest(), MEND)
    save_file(pretrained.fitted(tensors, inception, {}, path, MEND), str(folder / "kept.safetensors"))
    spec = models.Spec("inception", inception.CLASSES, 3, {}, str(folder / "kept.safetensors"))
    network = models.create(spec, torch.zeros(3), torch.ones(3), 0).requires_grad_(False)
    wanted = ["2048", "logits_unbiased"]
    return network, FeatureExtractorInceptionV3("inception", wanted, feature_extractor_weights_path=str(path))


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (310, 64)])
def test_inception_computes_what_torch_fidelitys_extractor_computes(
    size: tuple[int, int], observers: tuple[models.Network, FeatureExtractorInceptionV3]
) -> None:
    network, theirs = observers
    images = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found, unbiased = theirs(images)
    ((entered,), answered), *more = features.entering(network, [network.net.fc], images)
    assert not more and entered.shape == (2, 2048) and answered.shape == (2, inception.CLASSES)
    assert float(found.std()) > 0.01 and not torch.allclose(found[0], found[1], rtol=1e-3)
    for ours, expected in ((entered, found), (answered, unbiased)):
        assert float((ours - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_inceptions_last_layer_is_found_as_the_penultimate_of_its_classes(
    observers: tuple[models.Network, FeatureExtractorInceptionV3],
) -> None:
    network, theirs = observers
    images = torch.randint(256, (2, 3, 20, 20), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    found = features.penultimate(network, images)
    assert float((found - theirs(images)[0]).abs().max()) <= 1e-5 * float(found.abs().max())


@pytest.mark.parametrize("call", [lambda: inception.build(10, 1), lambda: inception.build(10, 4)])
def test_inception_sees_colour_images_alone(call: Callable[[], torch.nn.Module]) -> None:
    with pytest.raises(models.ModelError, match="sees 3 channels"):
        call()
