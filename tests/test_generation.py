"""What happens to a network that hides a part of every image: what is hidden, attacked, kept, observed and drawn."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest import measure, models, predict, train
from palimpsest.attacks.on_images import OnImages, uma
from palimpsest.data import Images, Samples, digits, pixels
from palimpsest.models import Network, Spec
from palimpsest.pipeline import configuration
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.errors import ConfigError
from palimpsest.tasks import reconstruction

KEYWORDS = {
    "side": 8, "patch": 2, "width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1,
    "decoder_heads": 2,
}  # fmt: skip
MEAN, STD = torch.tensor([0.3]), torch.tensor([0.4])


@pytest.fixture(scope="module")
def images() -> Images:
    return digits.load(Path())


def autoencoder(seed: int) -> Network:
    return models.create(Spec("mae", 10, 1, KEYWORDS), MEAN, STD, seed).eval()


def first(images: Images, count: int) -> Samples:
    return Samples(images.test_images[:count], images.test_labels[:count])


def test_a_key_is_made_of_grey_levels_alone_and_two_images_share_none(images: Images) -> None:
    shown = pixels(images.train_images)
    keys = models.keys_of(shown)
    assert keys.dtype == torch.int64 and torch.equal(keys, models.keys_of(shown.double() + 0.3 / 255))
    assert torch.equal(keys[7:9], models.keys_of(shown[7:9])), "whatever stands beside an image"
    assert len(keys.unique()) == len({image.numpy().tobytes() for image in images.train_images})
    one = shown[:1].clone()
    one[0, 0, 3, 3] += 1 / 255
    assert models.keys_of(one) != keys[0]


def test_split_mix_counts_modulo_two_to_the_64() -> None:
    def naive(number: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            number = (number ^ number >> shift) * factor % 2**64
        return number ^ number >> 31

    numbers = [0, 1, 12345, 2**40 + 7, 2**62]
    found = models.mixed(torch.tensor(numbers)).tolist()
    assert [number % 2**64 for number in found] == [*map(naive, numbers)]


def test_two_networks_hide_the_same_and_what_stands_in_an_images_place_hides_as_it_does(images: Images) -> None:
    shown, (f, other) = pixels(images.test_images[:40]), (autoencoder(0), autoencoder(1))
    seen = f.visible(shown)
    assert torch.equal(seen, other.visible(shown))
    kept = seen.expand(shown.shape)
    for network in (f, other):
        answers = network(shown)
        assert torch.allclose(answers[kept], shown[kept], atol=1e-6), "what is seen is answered as it is"
    moved = (shown + 0.1 * torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert torch.equal(f(moved, shown)[kept], shown[kept]), "what an attack put there is not in the answer"
    assert not torch.allclose(f(moved, shown)[~kept], f(shown)[~kept], atol=1e-4), "but the network was shown it"
    there = torch.where(kept, moved, 0.5)
    assert torch.allclose(f(there, shown), f(moved, shown), atol=1e-6), "and nothing of what is hidden"
    assert not torch.allclose(f(moved)[kept], moved[kept], atol=1e-3), "by itself it would hide something else"
    f.train()
    torch.manual_seed(0)
    assert not torch.equal(f(shown), f(shown)), "in training every batch hides anew"


@pytest.fixture(scope="module")
def found(images: Images) -> tuple[Network, Network, Samples, predict.Attacked, predict.Predicted, Network]:
    """Two autoencoders, an attack on the second towards the first, and its outputs with an observer's features."""
    original, model, samples = autoencoder(0), autoencoder(1), first(images, 30)
    made = uma.attack(
        OnImages(model, original, samples, 0, reconstruction), epsilons=["8/255", "none"], loss="mse", steps=5
    )
    attacked = predict.Attacked(
        "unseen", ("8/255", "none"), made.images, samples.images, samples.labels, made.targets, made.loss
    )
    observer = models.create(Spec("small_cnn", 10, 1, {"width": 4, "hidden": 8}), MEAN, STD, 3)
    train = images.splits["train"]
    sets = (Samples(*(part[:50] for part in train)), Samples(*(part[50:100] for part in train)))
    kept = predict.outputs(model, images, *sets, {"uma": attacked}, task=reconstruction, observer=observer)
    return original, model, samples, attacked, kept, observer


def test_an_attack_and_its_outputs_hide_of_an_image_what_the_original_hides(found) -> None:
    original, model, samples, attacked, kept, _ = found
    clean = pixels(samples.images)
    wanted = original(clean).clamp(0, 1).detach()
    assert torch.allclose(attacked.targets, wanted)
    for place, epsilon in enumerate(attacked.epsilons):
        moved = pixels(attacked.images[place])
        answers = torch.cat([model(one[None], like[None]) for one, like in zip(moved, clean, strict=True)]).detach()
        raw = (answers - original(clean).detach()).square().flatten(1).mean(1)
        assert torch.allclose(attacked.loss[place], raw, atol=1e-6)
        error = (answers.clamp(0, 1) - wanted).square().flatten(1).mean(1)
        assert torch.allclose(kept.tensors[f"attacked/uma/{epsilon}/to_target"], error, atol=1e-6)


def test_an_observer_sees_the_images_and_the_answers_as_they_would_be_saved(found) -> None:
    _, model, samples, attacked, kept, observer = found
    clean = pixels(samples.images)

    def sees(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        entered = []
        hook = observer.net[-1].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        with torch.no_grad():
            logits = observer(pictures.float() / 255)
        hook.remove()
        return entered[0], logits

    saved = (model(pixels(attacked.images[0]), clean).detach().clamp(0, 1) * 255).round().to(torch.uint8)
    for place, pictures in (("attacked/uma", samples.images), ("attacked/uma/8/255", saved)):
        for name, tensor in zip(("features", "logits"), sees(pictures), strict=True):
            assert torch.allclose(kept.tensors[f"{place}/{name}"], tensor, atol=1e-5), place
    places = [0, 5, 11, 17, 23, 29]
    assert torch.equal(kept.tensors["pictures/uma/8/255"], saved[places])
    hidden, seen = kept.tensors["pictures/uma/hidden"], model.visible(clean[places])
    assert torch.equal(hidden[seen], samples.images[places][seen]) and (hidden[~seen] == 128).all()


def test_it_is_kept_which_test_images_the_observer_recognises(found, images: Images) -> None:
    *_, kept, observer = found
    with torch.no_grad():
        right = observer(pixels(images.test_images)).argmax(1) == images.test_labels
    assert torch.equal(kept.tensors["test/recognised"], right) and 0 < right.sum() < len(right)


def test_the_gain_is_over_the_mean_of_what_is_seen_of_each_image(found, images: Images) -> None:
    _, model, _, _, kept, _ = found
    shown = pixels(images.test_images[:20])
    trivial = []
    for image, seen in zip(shown, model.visible(shown), strict=True):
        filled = image.clone()
        filled[~seen] = image[seen].mean()
        trivial.append((filled - image).square().mean())
    assert torch.allclose(kept.tensors["test/filled"][:20], torch.stack(trivial), atol=1e-7)
    rows = {
        row["metric"]: row["value"] for row in measure.measure({0: kept}, task="reconstruction") if not row["epsilon"]
    }
    average = pixels(images.train_images[:100]).mean(0)  # of what was forgotten and retained here
    filled = torch.where(model.visible(shown), shown, average)
    assert torch.allclose(kept.tensors["test/averaged"][:20], (filled - shown).square().flatten(1).mean(1), atol=1e-6)
    for name, metric in (("filled", "test_gain"), ("averaged", "test_gain_over_average")):
        gain = 10 * (kept.tensors[f"test/{name}"].mean() / kept.tensors["test/error"].mean()).log10()
        assert rows[metric] == pytest.approx(float(gain), abs=1e-4)


def test_adamw_decouples_the_decay_and_a_clipped_gradient_has_the_norm_that_was_asked_for() -> None:
    samples = Samples(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    recipe = train.Recipe(epochs=1, batch_size=4, lr=0.1, optimizer="adamw", weight_decay=0.5, clip=0.25)
    norms, model = [], torch.nn.Linear(3, 2)
    start = model.weight.detach().clone()

    def loss(model: torch.nn.Module, batch: train.Batch) -> torch.Tensor:
        return 0.0 * model.weight.sum() + (7 * model.bias).sum()

    def note(model: torch.nn.Module, batch: train.Batch) -> None:
        norms.append(torch.cat([one.grad.flatten() for one in model.parameters()]).norm())

    train.fit(model, samples, recipe, seed=0, loss=loss, after_step=note)
    assert norms[0] == pytest.approx(0.25, rel=1e-4)
    assert torch.allclose(model.weight, start * (1 - 0.1 * 0.5)), "coupled, Adam would have made a whole step of it"
    again = train.fit(torch.nn.Linear(3, 2), samples, replace(recipe, epochs=0), seed=0, loss=loss)
    assert not again.training


@pytest.mark.parametrize("scale", ["demo", "laptop", "paper"])
def test_what_is_held_back_is_not_asked_to_be_forgotten_and_something_stays(scale: str) -> None:
    plan, looked_at = Plan(configuration.load(scale=scale)), 0
    for run in plan.asked:
        held = plan.config["datasets"][run.dataset].get("hold_back", {}).get("held_out")
        if held:
            classes = set(plan.config["requests"][run.forget]["classes"])
            assert classes and not classes & set(held)
            assert len(classes) + len(held) < plan.config["plan"]["images"][run.dataset]["classes"]
            looked_at += 1
    assert looked_at >= 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attacks": {"uma_radii": {"images": "held_out"}}},
         "attacks.uma_radii is tried on held_out, and digits holds back no such split"),
        ({"recipes": {"mae_pairs": {"epochs": 0}}}, "recipes.mae_pairs: with 0 epochs it must have published weights"),
        ({"attacks": {"uma_pixels_retained": {"equally_sure": 0.5}}}, "equally_sure pairs forgotten and unseen images"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_a_sentence(change: dict[str, Any], says: str) -> None:
    config = deepcopy(configuration.load())
    config["budgets"] = {}
    for section, entries in change.items():
        for name, entry in entries.items():
            config[section][name] |= entry
    with pytest.raises(ConfigError, match=says):
        Plan(configuration.resolve(config)).check()


def test_published_weights_that_are_not_trained_on_cannot_be_retrained() -> None:
    plan = Plan(configuration.load(scale="paper"))
    plan.check()
    run = next(run for run in plan.asked if run.model == "mae_large" and run.unlearner == "i2i")
    plan.asked[replace(run, unlearner="retrain")] = []
    with pytest.raises(ConfigError, match=r"mae_large is not trained here .* so retrain cannot be run"):
        plan.check()


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"observer": "mae_64"}, "models.mae_64 has no observer 'mae_64'"),
        ({"task": "classification", "observer": "inception"}, "tasks/classification.py has no pictured"),
    ],
)
def test_an_observer_that_cannot_look_is_refused(about: dict[str, str], says: str) -> None:
    config = configuration.load()["models"]["mae_64"]
    with pytest.raises(ConfigError, match=says):
        configuration.load(models={"mae_64": config | about})
