"""Healing: distances and matchings against naive loops and SciPy, and spares that nobody trained on."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from test_unlearners import CLASSES, FORGET, RECIPE, RETAIN, flat, run, samples, tiny_model

from palimpsest import features, models, requests
from palimpsest.data import Images, Samples, hold_back, pixels
from palimpsest.train import Checkpoint, Recipe
from palimpsest.unlearners import Step, Unlearned, gathered, heal

SPARES = samples(48, seed=9)
ORIGINAL = tiny_model(5)
DISTANCES = tuple(heal.METRICS)
generator = np.random.default_rng(0)


def healed(forget: Samples = FORGET, seed: int = 7, at: dict[str, Any] | None = None, **settings: Any) -> Unlearned:
    step = Step(**{"seed": seed, "recipe": RECIPE, "splits": {"spare": SPARES}, "original": ORIGINAL, **(at or {})})
    return heal.unlearn(tiny_model(), forget, RETAIN, step, **gathered(heal.unlearn, settings))


def some(of: Samples, chosen: torch.Tensor) -> Samples:
    return Samples(*(part[chosen] for part in of))


def as_vectors(data: str, images: torch.Tensor) -> np.ndarray:
    """Pixels, or what the hidden layer of `small_cnn` gives, computed without the package's functions."""
    if data.startswith("raw"):
        return pixels(images, torch.float64).flatten(1).numpy()
    shown = (pixels(images) - ORIGINAL.mean) / ORIGINAL.std
    with torch.no_grad():
        for layer in list(ORIGINAL.net.children())[:-1]:
            shown = layer(shown)
    return shown.double().numpy()


@pytest.mark.parametrize("data", DISTANCES)
def test_distances_are_scipys_and_those_of_a_naive_loop(data: str) -> None:
    vectors = heal.vectors_of(data, RETAIN.images, ORIGINAL, 1e-3)
    found = heal.distances(vectors(FORGET.images), vectors(SPARES.images), heal.METRICS[data])
    ours, theirs, remaining = (as_vectors(data, of.images) for of in (FORGET, SPARES, RETAIN))
    spread = np.cov(remaining.T)
    inverse = np.linalg.inv(spread + 1e-3 * np.trace(spread) / len(spread) * np.eye(len(spread)))
    more = {"VI": inverse} if "mahalanobis" in data else {}
    np.testing.assert_allclose(found, cdist(ours, theirs, heal.METRICS[data], **more), rtol=1e-7)
    for row, one in enumerate(ours):
        for column, other in enumerate(theirs):
            difference = one - other
            expected = {
                "euclidean": float(np.sqrt(sum(difference**2))),
                "mahalanobis": float(np.sqrt(difference @ inverse @ difference)),
                "cosine": 1 - float(one @ other) / float(np.sqrt(one @ one) * np.sqrt(other @ other)),
            }[heal.METRICS[data]]
            assert found[row, column] == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_the_covariance_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def vectors(images: torch.Tensor) -> torch.Tensor:
        return pixels(images, torch.float64).flatten(1)

    monkeypatch.setattr(heal, "BATCH", 7)
    found = heal.covariance(vectors, RETAIN.images)
    np.testing.assert_allclose(found.numpy(), np.cov(vectors(RETAIN.images).numpy().T), atol=1e-14)


def test_a_vector_of_zeros_is_like_no_other_and_one_out_of_the_numbers_is_a_divergence() -> None:
    zero, one = torch.zeros(1, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    assert heal.distances(zero, one, "cosine").tolist() == [[1.0, 1.0]]
    assert heal.distances(one, zero, "cosine").tolist() == [[1.0], [1.0]]
    with pytest.raises(models.Diverged, match="distances to the spares are not finite"):
        heal.distances(zero / 0, one, "euclidean")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (3, 4), (4, 6), (5, 5)])
def test_the_assignment_is_the_best_of_all_and_in_order_each_takes_the_nearest_that_is_left(
    rows: int, columns: int
) -> None:
    for _ in range(20):
        distances = generator.integers(0, 9, (rows, columns)).astype(float)  # with ties
        best = min(sum(distances[range(rows), one]) for one in permutations(range(columns), rows))
        chosen = heal.assignment(distances)
        assert len(set(chosen.tolist())) == rows and distances[range(rows), chosen].sum() == best
        left, expected = list(range(columns)), []
        for row in distances:
            nearest = min(left, key=lambda column: (row[column], column))
            left.remove(nearest)
            expected.append(nearest)
        before = distances.copy()
        assert heal.in_order(distances).tolist() == expected and (distances == before).all()


@pytest.mark.parametrize("matching", ["in_order", "assignment"])
@pytest.mark.parametrize("data", [*DISTANCES, "random"])
def test_a_spare_was_held_back_is_used_once_and_has_its_samples_label(data: str, matching: str) -> None:
    every = samples(120, seed=3)
    assert len({bytes(image.numpy().tobytes()) for image in every.images}) == 120
    whole = Images.of(tuple("abcd"), train=tuple(part[:80] for part in every), test=tuple(part[80:] for part in every))
    images = hold_back(whole, {"spare": 0.3}, seed=1)
    asked = requests.Request(torch.arange(0, len(images.train_labels), 5))
    (split,) = requests.steps(images.splits["train"], [asked], same=True)
    at = Step(2, RECIPE, splits={"spare": images.splits["spare"]}, original=ORIGINAL)
    settings = gathered(heal.unlearn, {"data": data, "matching": matching})
    kept = heal.unlearn(tiny_model(), split.forget, split.retain, at, **settings).kept
    spares = some(images.splits["spare"], kept["twins"])
    assert kept["twins"].dtype == torch.int64 and len(set(kept["twins"].tolist())) == len(asked.indices)
    assert torch.equal(spares.labels, split.forget.labels)
    trained = {bytes(one.numpy().tobytes()) for part in ("train", "test") for one in images.splits[part].images}
    assert not trained & {bytes(one.numpy().tobytes()) for one in spares.images}
    by = "raw_l2" if data == "random" else data
    vectors = heal.vectors_of(by, split.retain.images, ORIGINAL, 1e-3)
    apart = heal.distances(vectors(split.forget.images), vectors(spares.images), heal.METRICS[by])
    assert kept["distances"].tolist() == pytest.approx(apart.diagonal().tolist(), rel=1e-4, abs=1e-7)


def test_trained_is_on_what_remains_and_the_spares_in_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def noted(model: models.Network, data: Samples, recipe: Recipe, **more: Any) -> models.Network:
        seen.append((data, recipe, more["seed"]))
        return model

    monkeypatch.setattr(heal, "fit", noted)
    twins = healed(epochs=3, lr=0.5).kept["twins"]
    (found, recipe, seed) = seen.pop()
    assert torch.equal(found.images, torch.cat([RETAIN.images, SPARES.images[twins]]))
    assert torch.equal(found.labels, torch.cat([RETAIN.labels, FORGET.labels]))
    assert recipe == Recipe(3, 64, 0.5, optimizer="adam", weight_decay=0.0) and seed == 7
    healed(at={"recipe": Recipe(5, 8, 0.02, augment=("flip",))})
    assert seen[-1][1] == Recipe(1, 64, 1e-3, optimizer="adam", weight_decay=0.0, augment=("flip",))
    floats = Samples(pixels(RETAIN.images), RETAIN.labels)
    heal.unlearn(tiny_model(), FORGET, floats, Step(7, RECIPE, splits={"spare": SPARES}))
    assert torch.equal(seen[-1][0].images, pixels(found.images))


def test_without_spares_it_is_fine_tuning_and_with_them_it_is_not() -> None:
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.01, "optimizer": "adam", "weight_decay": 0.0}
    fine_tuned = flat(run("finetune", tiny_model(), FORGET, **settings))
    remaining = healed(data="remaining", at={"splits": {}, "original": None}, **settings)
    assert torch.equal(flat(remaining.network), fine_tuned) and not remaining.kept
    assert not torch.equal(flat(healed(**settings).network), fine_tuned)


def test_a_step_of_nothing_leaves_the_weights_where_they_were() -> None:
    for data in (*DISTANCES, "random", "remaining"):
        assert torch.equal(flat(healed(data=data, lr=0.0).network), flat(tiny_model()))


def test_random_spares_depend_on_the_seed_and_the_nearest_do_not() -> None:
    first, again, other = (healed(data="random", seed=seed).kept["twins"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for data in DISTANCES:
        assert torch.equal(*(healed(data=data, seed=seed).kept["twins"] for seed in (1, 2)))


def test_what_is_forgotten_later_takes_no_spare_from_what_was_forgotten_before() -> None:
    for data in DISTANCES:
        first = healed(some(FORGET, torch.arange(5)), data=data).kept["twins"]
        assert torch.equal(healed(data=data).kept["twins"][:5], first)


def test_a_healing_that_was_killed_resumes_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data": "random", "epochs": 3, "batch_size": 8, "lr": 0.01}
    whole = healed(**settings)
    checkpoint = Checkpoint(tmp_path / "resume", "key", seconds=0)
    save, written = Checkpoint.save, list[int]()

    def killed(at: Checkpoint, done: int, tensors: Any) -> None:
        save(at, done, tensors)
        written.append(done)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        healed(at={"checkpoint": checkpoint}, **settings)
    resumed = healed(at={"checkpoint": checkpoint}, **settings)
    assert written == [1, 2], "the third epoch alone is done again"
    assert torch.equal(flat(resumed.network), flat(whole.network))
    assert torch.equal(resumed.kept["twins"], whole.kept["twins"])


def test_too_few_spares_no_spares_and_no_features_end_in_a_sentence_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heal, "fit", lambda *_, **__: pytest.fail("nothing is trained"))
    few = some(SPARES, torch.tensor([0, 1, 2, 3, 4, 5, 6]))  # one of class 3, of which two are forgotten
    black = Samples(torch.zeros_like(RETAIN.images), RETAIN.labels)
    for forget, retain, at, settings, sentence in (
        (FORGET, RETAIN, {"splits": {"spare": few}}, {}, "2 samples of class 3 are forgotten, and 'spare' has 1 of it"),
        (FORGET, RETAIN, {"splits": {"spare": few}}, {"data": "random"}, "hold back a larger share or forget fewer"),
        (FORGET, RETAIN, {}, {}, "heal: the data set holds back no 'spare'; it holds back nothing"),
        (FORGET, RETAIN, {"splits": {"spare": SPARES}}, {"split": "other"}, "no 'other'; it holds back spare"),
        (FORGET, RETAIN, {"splits": {"spare": SPARES}}, {"data": "feature_cosine"}, "and none is given"),
        (FORGET, black, {"splits": {"spare": SPARES}}, {"data": "raw_mahalanobis"}, "cannot be inverted"),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            heal.unlearn(tiny_model(), forget, retain, Step(0, RECIPE, **at), **settings)
        assert str(refused.value).startswith("heal: ") and "\n" not in str(refused.value)


# Features


def test_features_are_what_the_last_layer_turns_into_logits() -> None:
    images = samples(6).images
    networks = {"small_cnn": {"width": 2}, "resnet": {"width": 2}, "lenet": {}}
    for name, keywords in networks.items():
        shown = images if name != "lenet" else torch.nn.functional.pad(images, (10, 10, 10, 10))
        model = models.create(models.Spec(name, CLASSES, 1, keywords), torch.tensor([0.4]), torch.tensor([0.2]), 0)
        found = features.penultimate(model, shown, batch_size=4)
        last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            assert torch.allclose(last(found), model(pixels(shown)), atol=1e-5)


def test_an_ensembles_features_are_those_of_its_members_side_by_side() -> None:
    spec = models.Spec("ensemble", CLASSES, 1, {"method": "small_cnn", "members": 2, "keywords": {"width": 2}})
    model = models.create(spec, torch.tensor([0.4]), torch.tensor([0.2]), 0)
    found = features.penultimate(model, FORGET.images)
    for number, half in enumerate(found.chunk(2, 1)):
        one = models.create(models.Spec("small_cnn", CLASSES, 1, {"width": 2}), model.mean, model.std, 0)
        one.net = model.net.members[number]  # type: ignore[union-attr, index, assignment]
        assert torch.equal(half, features.penultimate(one, FORGET.images))
    made = heal.unlearn(
        model, FORGET, RETAIN, Step(0, RECIPE, splits={"spare": SPARES}, original=model), data="feature_mahalanobis"
    )
    assert made.network.spec == spec and not torch.equal(flat(made.network), flat(model))


def test_a_network_without_a_last_layer_of_classes_ends_in_a_sentence() -> None:
    model = tiny_model()
    model.net = torch.nn.Flatten()
    with pytest.raises(models.ModelError, match="no last linear layer with an output for each class"):
        features.penultimate(model, FORGET.images)
