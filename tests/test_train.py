"""The training loop: deterministic, resumable to the bit, honest about divergence; and what it is built from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_unlearners import RECIPE, flat, samples, tiny_model

from palimpsest import models, train
from palimpsest.data import Samples
from palimpsest.tasks import reconstruction
from palimpsest.train import Checkpoint, Recipe


def fit(recipe: Recipe, checkpoint: Checkpoint | None = None, seed: int = 3) -> torch.Tensor:
    data = samples(64)
    return flat(train.fit(tiny_model(), data, recipe, seed=seed, checkpoint=checkpoint))


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
        train.fit(tiny_model(), data, recipe, seed=3, checkpoint=checkpoint, after_step=kill)
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


def test_a_loss_of_its_own_is_what_falls_and_stop_ends_after_the_step_that_it_says_yes_to() -> None:
    data, steps = samples(64), list[int]()

    def loss(model: torch.nn.Module, batch: train.Batch) -> torch.Tensor:
        return (flat_parameters(model) - 1).square().mean()

    def stop(model: torch.nn.Module, batch: train.Batch) -> bool:
        steps.append(batch.epoch)
        return len(steps) == 6  # the second step of the second epoch of four

    model = train.fit(tiny_model(), data, Recipe(5, 16, 1.0, weight_decay=0.0), seed=0, loss=loss, stop=stop)
    assert steps == [0, 0, 0, 0, 1, 1] and not model.training
    assert loss(model, None) < 0.99 * loss(tiny_model(), None)  # type: ignore[arg-type]


def flat_parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bytes_and_floats_in_zero_to_one_are_the_same_samples(dtype: torch.dtype) -> None:
    data, recipe = samples(64), replace(RECIPE, augment=("crop", "flip"))
    found = []
    for images in (data.images, data.images.to(dtype) / 255):
        model = train.fit(tiny_model().to(dtype), Samples(images, data.labels), recipe, seed=3)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
        found.append(flat(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_features_without_height_and_width_are_trained_on_too(dtype: torch.dtype) -> None:
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    data = Samples(features, (features[:, 0] > 0).long())
    model = train.fit(torch.nn.Linear(5, 2).to(dtype), data, Recipe(20, 10, 0.1), seed=0)
    assert (model(features.to(dtype)).argmax(1) == data.labels).float().mean() > 0.95


def test_a_batch_of_one_takes_batch_normalisations_running_statistics_and_leaves_them() -> None:
    one = Samples(*(tensor[:1] for tensor in samples(4)))
    spec = models.Spec("resnet", 4, 1, {"width": 2})  # eight pixels shrink to one in its last blocks
    model = models.create(spec, torch.tensor([0.4]), torch.tensor([0.2]), 0)
    before, buffers = flat_parameters(model).clone(), {name: b.clone() for name, b in model.named_buffers()}
    train.fit(model, one, Recipe(1, 8, 0.1), seed=0)
    assert not torch.equal(flat_parameters(model), before)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    # Of nine samples in batches of eight the last one is dropped, of two batches each moves the statistics.
    train.fit(model, samples(9), Recipe(1, 8, 0.1), seed=0)
    assert int(dict(model.named_buffers())["net.bn1.num_batches_tracked"]) == 1


class Blurred(torch.nn.Module):
    """An image (N, 1, 8, 8) through a narrow layer and back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.narrow, self.wide = torch.nn.Linear(64, 8), torch.nn.Linear(8, 64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.wide(self.narrow(images.flatten(1))).view(images.shape)


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_network_learns_to_give_images_back(augment: tuple[str, ...]) -> None:
    data = Samples(samples(64).images, torch.full((64,), -1))  # labels that no class has: nobody may look at them
    targets = reconstruction.targets(data)
    assert targets.dtype == torch.float32 and targets.max() <= 1

    def error(model: torch.nn.Module) -> torch.Tensor:
        return reconstruction.distance(model(targets), targets, "mse")

    shown: list[train.Batch] = []
    recipe = Recipe(40, 16, 0.01, optimizer="adam", weight_decay=0.0, augment=augment)
    model = train.fit(
        Blurred(),
        data,
        recipe,
        seed=0,
        task=reconstruction,
        after_step=lambda model, batch: shown.append(batch),
    )
    assert error(model).shape == (64,) and error(model).mean() < 0.2 * error(Blurred()).mean()
    assert all(torch.equal(reconstruction.targets(batch), batch.images) for batch in shown), "augmented as it is shown"
    answers = reconstruction.answer(model(targets))
    assert answers.shape == data.images.shape and answers.min() >= 0 and answers.max() <= 1


def test_weights_that_are_not_finite_after_the_last_step_are_a_divergence_too() -> None:
    def explode(model: torch.nn.Module, batch: train.Batch) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    with pytest.raises(models.Diverged, match="the weights after training are not finite"):
        train.fit(tiny_model(), samples(8), Recipe(1, 8, 0.01), seed=0, after_step=explode)


def test_what_is_kept_grows_during_training_and_is_resumed(tmp_path: Path) -> None:
    def run(checkpoint: Checkpoint | None, until: int = 99) -> dict[str, torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}

        def note(model: torch.nn.Module, batch: train.Batch) -> None:
            if batch.epoch == until:
                raise KeyboardInterrupt
            name = f"epoch{batch.epoch}"
            kept[name] = kept.get(name, torch.zeros(1)) + flat_parameters(model).sum()

        recipe = replace(RECIPE, epochs=4)
        train.fit(tiny_model(), samples(64), recipe, seed=3, after_step=note, kept=kept, checkpoint=checkpoint)
        return kept

    checkpoint = Checkpoint(tmp_path / "model.resume", "key", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, until=2)
    whole, resumed = run(None), run(checkpoint)
    assert whole.keys() == resumed.keys() == {f"epoch{number}" for number in range(4)}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_what_was_restored_says_how_long_it_had_taken_and_tells_the_training_around_it(tmp_path: Path) -> None:
    tensors = {"one": torch.zeros(1)}

    def fresh() -> Checkpoint:
        return Checkpoint(tmp_path / "model.resume", "key", seconds=0)

    first = fresh()
    first.save(1, tensors)
    first.part("slice", "0").save(1, tensors)
    second = fresh()
    second.restore()
    (taken,) = second.earlier
    assert 0 <= taken < 60
    within = second.part("slice", "0")
    within.restore()
    assert second.earlier == [taken, *within.earlier] and len(within.earlier) == 1
    object.__setattr__(second, "_started", second._started - 100)
    second.save(2, tensors)
    (third := fresh()).restore()
    assert third.earlier[0] >= 100 + sum(second.earlier), "all that came before"


def test_a_loss_that_is_not_finite_is_a_divergence_that_names_the_epoch() -> None:
    with pytest.raises(models.Diverged, match="epoch 1 of 2"):
        fit(replace(RECIPE, lr=1e30))


def test_training_on_separable_images_learns_them() -> None:
    data = samples(64)
    model = train.fit(tiny_model(), data, Recipe(20, 16, 0.01, optimizer="adam"), seed=0)
    assert (models.predict(model, data.images).argmax(1) == data.labels).float().mean() > 0.95


def test_a_plain_loop_over_batches_gives_the_same_weights() -> None:
    data, recipe = samples(32), Recipe(epochs=3, batch_size=8, lr=0.05)
    ours = train.fit(tiny_model(), data, recipe, seed=5)
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
