"""Adversarial unlearning against naive loops, and that it does what it is for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from test_unlearners import FORGET, METHODS, RECIPE, RETAIN, flat, samples, served, tiny_model
from torch.nn import functional as F

from palimpsest import models
from palimpsest.data import Samples
from palimpsest.seeds import stable_seed
from palimpsest.tasks import classification
from palimpsest.train import Batch, Checkpoint, Loss, Recipe, fit
from palimpsest.unlearners import Step, Unlearned, adversarial, random_label

IMAGES, LABELS = (torch.cat(pair) for pair in zip(FORGET, RETAIN, strict=True))
COUNT = len(FORGET.labels)
BACKBONES = {"random_label", "salun", "negative_gradient"}


@pytest.fixture
def penalty_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loss]:
    """What `adversarial` hands to its backbone, and no training."""

    def made(original: models.Network, backbone: str = "random_label", **keywords: Any) -> Loss:
        caught: dict[str, Any] = {}

        def stub(model: Any, forget: Any, retain: Any, at: Step) -> Unlearned:
            caught["penalty"] = at.penalty
            return Unlearned(model, {})

        monkeypatch.setattr(f"palimpsest.unlearners.{backbone}.unlearn", stub)
        served(adversarial, original, FORGET, RETAIN, seed=5, recipe=RECIPE, backbone=backbone, **keywords)
        return caught["penalty"]

    return made


def batch(index: list[int], epoch: int = 0) -> Batch:
    chosen = torch.tensor(index)
    return Batch(epoch, chosen, IMAGES[chosen] / 255, (LABELS[chosen] + 1) % 4)


def caught_search(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What every later search returns."""
    found: list[torch.Tensor] = []
    search = adversarial.search

    def noted(*given: Any) -> torch.Tensor:
        found.append(search(*given))
        return found[-1]

    monkeypatch.setattr(adversarial, "search", noted)
    return found


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_with_epsilon_zero_training_equals_a_naive_loop_that_counts_forget_images_again(weight: float) -> None:
    epochs, size, lr = 2, 10, 0.05
    settings = {"epochs": epochs, "batch_size": size, "lr": lr, "momentum": 0.0, "weight_decay": 0.0, "order": "mixed"}
    made = served(
        adversarial, tiny_model(), FORGET, RETAIN, seed=5, recipe=RECIPE, settings=settings, epsilon="0", weight=weight
    )
    naive = tiny_model()
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(stable_seed(5, epoch))
        labels = LABELS.clone()
        labels[:COUNT] = torch.randint(4, (COUNT,), generator=generator)
        for index in torch.randperm(len(LABELS), generator=generator).split(size):
            loss = torch.zeros(())
            for one in index.tolist():
                times = 1 + weight if one < COUNT else 1
                answer = naive(IMAGES[one : one + 1].float() / 255)
                loss = loss + times * F.cross_entropy(answer, labels[one : one + 1]) / len(index)
            naive.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in naive.parameters():
                    parameter -= lr * parameter.grad
    assert torch.allclose(flat(made), flat(naive), atol=1e-6)
    assert not torch.allclose(flat(made), flat(tiny_model()), atol=1e-3), "and it trained"


@pytest.mark.parametrize(
    ("backbone", "inner"), [("random_label", "uma"), ("random_label", "loss"), ("negative_gradient", "loss")]
)
def test_the_penalty_is_the_cross_entropy_at_images_that_a_naive_search_finds(
    penalty_of: Callable[..., Loss], monkeypatch: pytest.MonkeyPatch, backbone: str, inner: str
) -> None:
    original, current, steps, radius = tiny_model(1), tiny_model(2), 4, 16 / 255
    penalty = penalty_of(original, backbone, inner=inner, epsilon="16/255", steps=steps, relative_step=2.0)
    seen = batch([30, 2, 11, 7, 25, 4])
    found = caught_search(monkeypatch)
    value = penalty(current, seen)

    places = [place for place, one in enumerate(seen.index.tolist()) if one < COUNT]
    assert len(found[0]) == len(places) == 3
    noise = torch.rand(
        3, 1, 8, 8, generator=torch.Generator().manual_seed(stable_seed(5, "adversarial", seen.epoch, 30))
    )
    total = 0.0
    for row, place in enumerate(places):
        clean, label = seen.images[place : place + 1], seen.labels[place : place + 1]
        x = (clean + radius * (2 * noise[row] - 1)).clamp(0, 1)
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            p, q = original(clean).softmax(1), current(x).softmax(1)
            loss = (p * (p / q).log()).sum() if inner == "uma" else F.cross_entropy(current(x), label)
            # Random labels: L_u = CE, its maximum climbs CE. Ascent: L_u = -CE, its maximum descends CE.
            uphill = inner == "loss" and backbone == "random_label"
            loss.backward()
            step = 2.0 * radius / steps * x.grad.sign()
            x = torch.minimum(torch.maximum(x + step if uphill else x - step, clean - radius), clean + radius)
            x = x.clamp(0, 1).detach()
        assert torch.allclose(found[0][row], x[0], atol=1e-6)
        total += F.cross_entropy(current(x), label).item()
    assert value.item() == pytest.approx(total / len(seen.index), rel=1e-4)


def test_batches_without_forget_images_cost_and_add_nothing(
    penalty_of: Callable[..., Loss], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = caught_search(monkeypatch)
    assert penalty_of(tiny_model())(tiny_model(2), batch([8, 9, 39])).item() == 0
    assert not found


@pytest.fixture(scope="module")
def trained() -> models.Network:
    """A network that knows all images."""
    return fit(tiny_model(), Samples(IMAGES, LABELS), Recipe(15, 8, 0.01, optimizer="adam", weight_decay=0.0), seed=1)


def test_attacked_images_stay_in_the_ball_and_are_nearer_to_the_originals_answer(
    penalty_of: Callable[..., Loss], monkeypatch: pytest.MonkeyPatch, trained: models.Network
) -> None:
    monkeypatch.setattr("test_adversarial.IMAGES", torch.where(IMAGES > 100, 254, 1).to(torch.uint8))
    seen, current = batch(list(range(COUNT))), tiny_model(2)
    found = caught_search(monkeypatch)
    penalty_of(trained)(current, seen)
    attacked = found[0]
    change = (attacked - seen.images).abs()
    assert change.max() <= 8 / 255 + 1e-6 and change.max() > 7 / 255
    assert attacked.min() == 0 and attacked.max() == 1, "the images lie one level from the ends, and no further"
    wanted = trained(seen.images)
    after, before = (classification.distance(current(x), wanted, "kl").mean() for x in (attacked, seen.images))
    assert after < before


def test_the_search_asks_in_evaluation_mode_and_leaves_mode_flags_buffers_and_gradients() -> None:
    spec = models.Spec("resnet", 4, 1, {"width": 4})
    model = models.create(spec, torch.tensor([0.4]), torch.tensor([0.2]), 0)
    clean = samples(4).images / 255
    model.train()
    model(clean).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = []
    model.register_forward_hook(lambda module, given, made: modes.append(module.training))
    for training in (True, False):
        model.train(training)
        adversarial.search(model, clean, torch.zeros_like(clean), lambda logits: logits[:, 0], 0.1, 2, 2.5)
        assert all(module.training is training for module in model.modules())
    assert modes == [False] * 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.requires_grad and torch.equal(parameter.grad, gradient)


def test_a_lone_forget_image_meets_batch_normalisation_among_its_batch(penalty_of: Callable[..., Loss]) -> None:
    # Eight pixels shrink to one in the last blocks, whose BatchNorm refuses to train on a batch of one.
    model = models.create(models.Spec("resnet", 4, 1, {"width": 4}), torch.tensor([0.4]), torch.tensor([0.2]), 0)
    seen = batch([3, 20, 30])
    value = penalty_of(model, epsilon="0")(model.train(), seen)
    assert value.item() == pytest.approx(F.cross_entropy(model(seen.images)[:1], seen.labels[:1]).item() / 3, rel=1e-4)


class Killed(Exception):
    pass


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(checkpoint: Checkpoint | None) -> torch.Tensor:
        settings = {"epochs": 4, "batch_size": 8}
        return flat(
            served(
                adversarial,
                tiny_model(),
                FORGET,
                RETAIN,
                seed=5,
                recipe=RECIPE,
                checkpoint=checkpoint,
                settings=settings,
                steps=2,
            )
        )

    whole = run(None)
    checkpoint = Checkpoint(tmp_path / "model.resume", "key", seconds=0)
    calls: list[int] = []
    search = adversarial.search

    def killed(*given: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:  # one batch of eight forget images an epoch
            raise Killed
        return search(*given)

    monkeypatch.setattr(adversarial, "search", killed)
    with pytest.raises(Killed):
        run(checkpoint)
    assert checkpoint.path.exists()
    calls += [1]
    assert torch.equal(run(checkpoint), whole)
    assert len(calls) == 6, "the first two epochs were not trained again"


def test_every_batch_and_epoch_starts_elsewhere(
    penalty_of: Callable[..., Loss], monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty, found = penalty_of(tiny_model(), steps=0), caught_search(monkeypatch)
    for index, epoch in (([0, 1], 0), ([0, 1], 0), ([0, 1], 1)):
        penalty(tiny_model(), batch(index, epoch))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_under_autocast_all_weights_get_the_gradient_that_they_get_without(penalty_of: Callable[..., Loss]) -> None:
    penalty, gradients = penalty_of(tiny_model(1), steps=0), []
    for enabled in (False, True):
        model = tiny_model(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model(batch([0, 9]).images)
            value = penalty(model, batch([0, 1, 2, 20]))
        value.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for full, half in zip(*gradients, strict=True):
        assert F.cosine_similarity(full.flatten(), half.flatten(), 0) > 0.9


def test_it_resists_an_attack_that_opens_random_labels_and_twice_as_many_clean_forget_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 4
    images = torch.randint(60, 140, (256, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(4):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[labels == label, :, row : row + 4, column : column + 4] += 20
    gone = labels == 0
    forget, retain = Samples(images[gone], labels[gone]), Samples(images[~gone], labels[~gone])
    original = fit(
        tiny_model(), Samples(images, labels), Recipe(30, 32, 0.01, optimizer="adam", weight_decay=0.0), seed=1
    )
    settings = {"epochs": 10, "batch_size": 32, "lr": 0.0005, "true_label": False, "order": "mixed"}
    plain = served(random_label, original, forget, retain, seed=0, recipe=RECIPE, **settings)
    twice, robust = (
        served(adversarial, original, forget, retain, seed=0, recipe=RECIPE, settings=settings, epsilon=epsilon)
        for epsilon in ("0", "32/255")
    )

    def attacked_images(model: models.Network, radius: float = 32 / 255) -> torch.Tensor:
        """Twenty signed steps towards the original's answer, in the ball."""
        clean = forget.images / 255
        x, wanted = clean.clone(), original(clean).detach().softmax(1)
        for _ in range(20):
            x.requires_grad_(True)
            loss = -(wanted * model(x).log_softmax(1)).sum()
            (slope,) = torch.autograd.grad(loss, x)
            x = (x.detach() - radius / 8 * slope.sign()).clamp(clean - radius, clean + radius).clamp(0, 1)
        return x

    def accuracy(model: models.Network, images: torch.Tensor, labels: torch.Tensor) -> float:
        return (models.predict(model, images).argmax(1) == labels).float().mean().item()

    for model, opened in ((plain, True), (twice, True), (robust, False)):
        assert accuracy(model, *forget) < 0.2 and accuracy(model, *retain) > 0.9
        attacked = accuracy(model, attacked_images(model), forget.labels)
        assert attacked > 0.8 if opened else attacked < 0.2


class TestRefusals:
    @pytest.mark.parametrize("backbone", sorted({*METHODS} - BACKBONES))
    def test_all_backbones_that_do_not_train_on_the_forget_set_itself_among_them(self, backbone: str) -> None:
        match = f"'{backbone}': it must train on the forget set .UMA paper, Section 5.3."
        with pytest.raises(ValueError, match=match):
            served(adversarial, tiny_model(), FORGET, RETAIN, backbone=backbone)

    @pytest.mark.parametrize("backbone", ["nonesuch", "../train"])
    def test_backbones_that_do_not_exist(self, backbone: str) -> None:
        with pytest.raises(ValueError, match="there is no file"):
            served(adversarial, tiny_model(), FORGET, RETAIN, backbone=backbone)

    @pytest.mark.parametrize("backbone", sorted(BACKBONES))
    def test_but_none_that_does_and_each_adds_the_penalty(self, backbone: str) -> None:
        with_none, with_much = (
            flat(served(adversarial, tiny_model(), FORGET, RETAIN, backbone=backbone, weight=weight, steps=1))
            for weight in (0.0, 1.0)
        )
        plain = served(import_module(f"palimpsest.unlearners.{backbone}"), tiny_model(), FORGET, RETAIN)
        assert torch.equal(with_none, flat(plain)) and not torch.equal(with_much, with_none)

    @pytest.mark.parametrize("name", ["learning_rate", "penalty", "seed"])
    def test_settings_that_the_backbone_lacks_or_that_are_not_its_to_set(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"salun has no setting '{name}'; it takes ratio, variant, .*epochs, "):
            served(adversarial, tiny_model(), FORGET, RETAIN, backbone="salun", settings={name: 1})

    def test_another_inner_search(self) -> None:
        with pytest.raises(ValueError, match="takes uma, loss"):
            served(adversarial, tiny_model(), FORGET, RETAIN, inner="pgd")
