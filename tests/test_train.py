"""The training loop: deterministic, resumable to the bit, honest about divergence; and what it is built from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_unlearners import RECIPE, flat, samples, tiny_model

from palimpsest import models, train
from palimpsest.train import Checkpoint, Recipe


def fit(recipe: Recipe, checkpoint: Checkpoint | None = None, seed: int = 3) -> torch.Tensor:
    data = samples(64)
    return flat(train.fit(tiny_model(), data.images, data.labels, recipe, seed=seed, checkpoint=checkpoint))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, optimizer: str) -> None:
    recipe = Recipe(
        epochs=6,
        batch_size=16,
        lr=0.01,
        optimizer=optimizer,
        schedule="cosine",
        augment=("crop", "flip"),
        warmup_epochs=1,
    )
    whole = fit(recipe)
    checkpoint = Checkpoint(tmp_path / "model.resume", "key", seconds=0)

    class Killed(Exception):
        pass

    def kill(model: torch.nn.Module, batch: train.Batch, step: list[int] = [0]) -> None:  # noqa: B006 — counts the steps of one training
        step[0] += 1
        if step[0] == 15:  # in the fourth epoch of four steps each
            raise Killed

    data = samples(64)
    with pytest.raises(Killed):
        train.fit(tiny_model(), data.images, data.labels, recipe, seed=3, checkpoint=checkpoint, after_step=kill)
    assert checkpoint.path.exists()
    assert torch.equal(fit(recipe, checkpoint), whole)


def test_a_resume_file_of_other_parameters_or_with_damage_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "model.resume"
    fit(replace(RECIPE, lr=0.02, epochs=4), Checkpoint(path, "old", seconds=0))
    assert path.exists()
    assert torch.equal(fit(RECIPE, Checkpoint(path, "new", seconds=0)), fit(RECIPE))
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(fit(RECIPE, Checkpoint(path, "old", seconds=0)), fit(RECIPE))


def test_seed_decides_the_result() -> None:
    assert torch.equal(fit(RECIPE), fit(RECIPE))
    assert not torch.equal(fit(RECIPE), fit(RECIPE, seed=4))


def test_a_loss_that_is_not_finite_is_a_divergence_that_names_the_epoch() -> None:
    with pytest.raises(models.Diverged, match="epoch 1 of 2"):
        fit(replace(RECIPE, lr=1e30))


def test_training_on_separable_images_learns_them() -> None:
    data = samples(64)
    model = train.fit(tiny_model(), data.images, data.labels, Recipe(20, 16, 0.01, optimizer="adam"), seed=0)
    assert (models.predict(model, data.images).argmax(1) == data.labels).float().mean() > 0.95


def test_a_plain_loop_over_batches_gives_the_same_weights() -> None:
    data, recipe = samples(32), Recipe(epochs=3, batch_size=8, lr=0.05)
    ours = train.fit(tiny_model(), data.images, data.labels, recipe, seed=5)
    naive = tiny_model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(naive.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        generator = torch.Generator().manual_seed(train.stable_seed(5, epoch))
        for index in torch.randperm(32, generator=generator).split(8):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(naive(data.images[index] / 255), data.labels[index]).backward()
            optimizer.step()
    assert torch.allclose(flat(ours), flat(naive), atol=1e-6)


def test_rates_follow_the_named_schedules() -> None:
    steps = Recipe(10, 1, 0.1, schedule="multistep", milestones=(4, 8))
    assert [round(steps.rate(epoch), 6) for epoch in (0, 3.9, 4, 8)] == [0.1, 0.1, 0.01, 0.001]
    cosine = Recipe(12, 1, 0.1, schedule="cosine", warmup_epochs=2)
    assert cosine.rate(0) == 0 and cosine.rate(1) == pytest.approx(0.05) and cosine.rate(2) == pytest.approx(0.1)
    assert cosine.rate(7) == pytest.approx(0.05) and cosine.rate(12) == pytest.approx(0, abs=1e-12)


def test_a_misspelt_recipe_key_or_value_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="no key 'learning_rate'; it takes epochs, batch_size, lr"):
        train.recipe_from({"learning_rate": 1})
    with pytest.raises(ValueError, match="schedule cannot be 'step'; it takes constant, multistep, cosine"):
        Recipe(1, 1, 0.1, schedule="step")


def test_crops_are_windows_of_the_padded_image_and_flips_are_mirrors() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(200, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    padded = torch.nn.functional.pad(images[:1], (4,) * 4)
    windows = {tuple(padded[0, 0, y : y + 8, x : x + 8].flatten().tolist()) for y in range(9) for x in range(9)}
    cropped = train.augmented(images, ("crop",), generator)
    found = {tuple(image.flatten().tolist()) for image in cropped}
    assert found <= windows and len(found) > 50
    flipped = train.augmented(images, ("flip",), generator)
    same, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(3)))
    assert bool((same ^ mirrored).all()) and 60 < int(same.sum()) < 140


def test_channel_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(256, (50, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = models.channel_statistics(images)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    assert torch.allclose(mean.double(), pixels.mean(1), atol=1e-7)
    assert torch.allclose(std.double(), pixels.std(1, unbiased=False), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "keywords", "size", "parameters"),
    [
        ("lenet", {}, (1, 28), 61_706),  # LeNet-5 with 10 classes, counted by hand
        ("resnet", {"depth": 18}, (3, 32), 11_173_962),  # the CIFAR ResNet-18 everybody counts
        ("resnet", {"depth": 50}, (3, 32), 23_520_842),
        ("resnet", {"depth": 18, "stem": "imagenet"}, (3, 64), 11_181_642),  # torchvision's with 10 classes
        ("resnet", {"depth": 18, "width": 16}, (3, 32), None),
        ("small_cnn", {}, (1, 8), None),
        ("ensemble", {"method": "lenet", "members": 3}, (1, 28), 3 * 61_706),
        ("ensemble", {"method": "small_cnn", "members": 2, "keywords": {"width": 4}}, (1, 8), None),
    ],
)
def test_networks_have_the_published_size_and_survive_saving(
    tmp_path: Path, name: str, keywords: dict[str, object], size: tuple[int, int], parameters: int | None
) -> None:
    channels, side = size
    model = models.create(models.Spec(name, 10, channels, keywords), torch.zeros(channels), torch.ones(channels), 0)
    if parameters:
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    images = torch.randint(256, (2, channels, side, side), dtype=torch.uint8)
    models.save({3: model}, tmp_path / "model.safetensors", {3: {"data": "digest"}})
    again = models.load(tmp_path / "model.safetensors", 3)
    assert again.spec == model.spec and models.metadata(tmp_path / "model.safetensors", 3)["data"] == "digest"
    assert torch.equal(models.predict(again, images), models.predict(model, images))


def test_a_fresh_network_depends_on_its_seed_alone() -> None:
    first, second, other = (models.fresh(tiny_model(9), seed) for seed in (1, 1, 2))
    assert torch.equal(flat(first), flat(second)) and not torch.equal(flat(first), flat(other))


def test_a_model_file_that_is_broken_or_foreign_or_diverged_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a model")
    with pytest.raises(models.ModelError, match=r"model\.safetensors is not a readable model file"):
        models.load(path, 0)
    models.save({0: models.Diverged("the loss was nan in epoch 2")}, path, {0: {}})
    with pytest.raises(models.Diverged, match="nan in epoch 2"):
        models.load(path, 0)
    with pytest.raises(models.ModelError, match="no network file"):
        models.Network(models.Spec("../train", 2, 1), torch.zeros(1), torch.ones(1))


def test_features_go_into_a_network_as_they_are_and_come_back_with_it(tmp_path: Path) -> None:
    features = torch.randn(6, 5) * torch.tensor([1e-3, 1.0, 10.0, 0.0, 1.0])
    mean, std = models.channel_statistics(features)
    network = models.create(models.Spec("small_cnn", 2, 5), mean, std, 0)
    models.save({0: network}, tmp_path / "model", {0: {}})
    for one in (network, models.load(tmp_path / "model", 0), models.fresh(network, 3)):
        one.net = torch.nn.Identity()
        assert torch.equal(one(features), features)
