"""UMA against something independent."""

from __future__ import annotations

import math
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_unlearners import samples, tiny_model
from torch import nn

from palimpsest import measure, models, predict
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_images import OnImages, aimed_at, equal_parts, log_odds
from palimpsest.attacks.on_images.uma import attack
from palimpsest.data import Images, Samples
from palimpsest.tasks import reconstruction
from palimpsest.tasks.classification import distance
from palimpsest.train import Recipe, fit

LEVELS = {"8/255": 8, "16/255": 16}


class Linear(nn.Module):
    """A softmax model of two classes, linear in the pixels."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        score = pixels.flatten(1) @ self.weight
        return torch.stack([score, -score], 1)


@pytest.fixture(scope="module")
def trained() -> tuple[models.Network, models.Network, Samples]:
    """An original that knows its images, one that was trained on wrong labels, and the images."""
    data = samples(64)
    recipe = Recipe(15, 16, 0.01, optimizer="adam", weight_decay=0.0)
    original = fit(tiny_model(1), data, recipe, seed=1)
    other = fit(tiny_model(2), Samples(data.images, (data.labels + 1) % 4), recipe, seed=2)
    return original, other, data


@pytest.mark.parametrize("loss", ["kl", "mse", "bce", "cross_entropy"])
def test_on_a_linear_softmax_model_the_attack_reaches_the_analytic_optimum(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, generator=generator)
    weight[weight.abs() < 0.05] = 0.05  # a weight of zero has no sign, and any pixel would do
    images = torch.randint(40, 216, (16, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(16, dtype=torch.int64)
    # The original is so sure of class 0 (for cross entropy: of its argmax) that the score must rise as far as it can.
    original = Linear(torch.full((64,), 1e3))
    made = attack(OnImages(Linear(weight), original, Samples(images, labels), 0), steps=40, loss=loss)
    for block, levels in zip(made.images, LEVELS.values(), strict=True):
        best = images.int() + levels * weight.sign().int().view(1, 1, 8, 8)
        assert torch.equal(block.int(), best)


def test_an_optimum_inside_the_ball_is_reached_too() -> None:
    weight = torch.full((64,), 0.1)
    images = torch.full((4, 1, 8, 8), 100, dtype=torch.uint8)
    shifted = images + 5  # reachable: 5 of 8 levels
    original = Linear(weight)

    class Offset(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return original(pixels + 5 / 255)

    data = Samples(images, torch.zeros(4, dtype=torch.int64))
    made = attack(OnImages(original, Offset(), data, 0), steps=200, epsilons=["8/255"])
    reached, wanted = original(made.images[0] / 255), original(shifted / 255)
    start = distance(original(images / 255), wanted, "kl")
    assert (distance(reached, wanted, "kl") < start / 50).all()


def test_saved_images_lie_within_epsilon_exactly(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    dark_and_bright = Samples(torch.where(data.images > 100, 254, 1).to(torch.uint8), data.labels)
    for part in (data, dark_and_bright):
        made = attack(OnImages(other, original, part, 0), steps=10)
        for block, levels in zip(made.images, LEVELS.values(), strict=True):
            change = (block.int() - part.images.int()).abs()
            assert change.max() == levels, "the bound is used, and never passed"


def test_without_steps_nothing_changes(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    made = attack(OnImages(other, original, data, 0), steps=0)
    assert torch.equal(made.images, data.images.expand(2, *data.images.shape))


def test_more_steps_never_raise_the_mean_loss(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    losses = [attack(OnImages(other, original, data, 0), steps=steps).loss.mean(1) for steps in (0, 5, 20, 80)]
    for fewer, more in pairwise(losses):
        assert (more <= fewer * (1 + 1e-4)).all(), losses
    assert (losses[-1] < 0.95 * losses[0]).all(), "and the attack does something"


def naive(at: OnImages, image: torch.Tensor, levels: list[int], steps: int, factor: float) -> list[tuple[float, bytes]]:
    """Of one image (1, C, H, W), for each radius in grey levels: the lowest loss and the image that has it.

    Every iterate counts, and the clean image; a larger ball is searched from the smaller one's result.
    """
    wanted = at.original(image / 255)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ((at.model(x / 255) - wanted) ** 2).mean()

    found: list[tuple[float, torch.Tensor]] = []
    for radius in levels:
        seen = [image, *(x for _, x in found[-1:])]
        x = seen[-1]
        for _ in range(steps):
            asked = x.round().requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(asked), asked)
            x = (x - factor * radius / steps * gradient.sign()).clamp(image - radius, image + radius).clamp(0, 255)
            seen.append(x.round())
        with torch.no_grad():
            found.append(min(((float(loss(x)), x) for x in seen), key=lambda one: one[0]))
    return [(least, bytes(x.to(torch.uint8).flatten().tolist())) for least, x in found]


@pytest.fixture(scope="module")
def near(trained: tuple[models.Network, models.Network, Samples]) -> OnImages:
    """An original whose answers can be reached inside every ball, so that a long step goes past them."""
    original, _, data = trained
    moved, generator = deepcopy(original), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in moved.parameters():
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
    return OnImages(moved, original, data, 0)


def test_each_image_keeps_its_best_iterate_and_a_larger_ball_starts_from_the_smaller_ones(near: OnImages) -> None:
    few = Samples(near.samples.images[:12], near.samples.labels[:12])
    at = replace(near, samples=few)
    made = attack(
        at, epsilons=["32/255", "8/255"], steps=5, relative_step=9.0, start="image", loss="mse", batch_size=10
    )
    same = 0
    for number in range(12):
        alone = naive(at, few.images[number : number + 1].float(), [8, 32], 5, 9.0)
        for index, (least, image) in zip((1, 0), alone, strict=True):
            assert float(made.loss[index, number]) == pytest.approx(least, rel=1e-3, abs=1e-4)
            same += bytes(made.images[index, number].flatten().tolist()) == image
    assert same > 18, "a gradient near zero may have another sign in another batch"


def test_the_loss_of_no_image_rises_with_epsilon_as_it_does_where_the_last_iterate_is_kept(near: OnImages) -> None:
    at, asked = near, dict[str, Any](epsilons=["24/255", "none", "4/255", "12/255"], steps=4, loss="mse")
    published = attack(at, **asked, relative_step=12.0, variant="as_published").loss[[2, 3, 0]]
    assert (published.diff(dim=0) > 1e-3).any() and (published.mean(1).diff() > 0).any(), "steps go past the best"
    loss = attack(at, **asked, relative_step=12.0).loss[[2, 3, 0, 1]]
    clean = attack(at, **asked | {"steps": 0}).loss[:1]
    often = attack(at, **asked, relative_step=12.0, restarts=3).loss[[2, 3, 0, 1]]
    assert (often.diff(dim=0) <= 0).all() and (often <= loss).all()
    assert (torch.cat([clean, loss]).diff(dim=0) <= 0).all()


def test_as_published_the_end_of_algorithm_1_is_kept(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    made = attack(OnImages(other, original, data, 7), steps=6, relative_step=5.0, variant="as_published")
    clean = data.images / 255
    drawn = torch.rand((2, *clean.shape), generator=torch.Generator().manual_seed(7)).mul(2).sub(1)
    wanted = original(clean).detach()
    for index, radius in enumerate((8 / 255, 16 / 255)):
        low, high = (clean - radius).clamp(min=0), (clean + radius).clamp(max=1)
        x = (clean + radius * drawn[index]).clamp(low, high)
        for _ in range(6):
            x.requires_grad_(True)
            (gradient,) = torch.autograd.grad(distance(other(x), wanted, "kl").sum(), x)
            x = (x.detach() - 5 / 6 * radius * gradient.sign()).clamp(low, high)
        end = x.mul(255).round()
        assert (made.images[index] == end).float().mean() > 0.995
        assert torch.allclose(made.loss[index], distance(other(end / 255), wanted, "kl"), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("variant", ["corrected", "as_published"])
def test_of_several_restarts_each_image_keeps_the_one_with_the_lowest_loss(
    trained: tuple[models.Network, models.Network, Samples], variant: str
) -> None:
    original, other, data = trained
    at, asked = OnImages(other, original, data, 3), dict[str, Any](epsilons=["8/255"], steps=2, variant=variant)
    once, often = attack(at, **asked), attack(at, **asked, restarts=5)
    assert (often.loss <= once.loss).all() and (often.loss < once.loss).float().mean() > 0.5
    reached = distance(other(often.images[0] / 255), original(data.images / 255), "kl")
    assert torch.allclose(often.loss[0], reached, atol=1e-5), "the loss is that of the image which is returned"


def test_times_multiplies_the_steps(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    at = OnImages(other, original, data, 0)
    for times, steps in ((2, 10), (0.5, 2), (0.6, 3)):
        made, wanted = attack(at, steps=5, times=times), attack(at, steps=steps)
        assert torch.equal(made.images, wanted.images)


def test_both_epsilons_in_one_batch_are_the_two_attacks_alone(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    at = OnImages(other, original, data, 0)
    together = attack(at, steps=10, start="image", variant="as_published")
    for index, epsilon in enumerate(LEVELS):
        alone = attack(at, steps=10, start="image", variant="as_published", epsilons=[epsilon], batch_size=7)
        assert (together.images[index] == alone.images[0]).float().mean() > 0.999


def test_weights_gradients_and_flags_of_both_models_stay(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    for model in (original, other):
        model.zero_grad(set_to_none=True)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (original, other)]
    attack(OnImages(other, original, data, 0), steps=3)
    for model, state in zip((original, other), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_wrong_target_is_neither_the_truth_nor_the_originals_answer(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    made = attack(OnImages(other, original, data, 0), steps=20, target="wrong_label")
    answers = models.predict(original, data.images).argmax(1)
    assert not (made.targets == data.labels).any() and not (made.targets == answers).any()
    assert len(made.targets.unique()) == 4, "targets are spread over the classes"
    towards = attack(OnImages(other, original, data, 0), steps=0, target="wrong_label")
    assert (made.loss.mean(1) < towards.loss.mean(1)).all(), "the search goes towards them"


def test_images_made_on_another_model_show_what_hidden_gradients_hide(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained

    class Masked(nn.Module):
        """Answers as the other does, but its gradient leads nowhere."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return other(pixels.detach()) + 0 * pixels.sum((1, 2, 3))[:, None]

    asked = dict[str, Any](epsilons=["160/255"], steps=20)
    own, carried = (attack(OnImages(one, original, data, 0), **asked).images[0] for one in (Masked(), other))
    reached = [float((Masked()(x / 255).argmax(1) == data.labels).float().mean()) for x in (own, carried)]
    assert reached[0] < 0.2 and reached[1] > 0.8, reached


class TestWithoutABound:
    """An epsilon of `none` leaves the pixel range alone to hold."""

    weight = torch.randn(64, generator=torch.Generator().manual_seed(0)).sign()
    data = Samples(samples(16).images, torch.zeros(16, dtype=torch.int64))
    at = OnImages(Linear(weight), Linear(torch.full((64,), 1e3)), data, 0)

    @pytest.mark.parametrize("start", ["random", "image"])
    def test_a_hundred_steps_lead_to_the_best_image_there_is(self, start: str) -> None:
        made = attack(self.at, epsilons=["none"], start=start)
        best = (self.weight > 0).view(1, 8, 8) * torch.tensor(255, dtype=torch.uint8)
        assert torch.equal(made.images[0], best.expand(16, 1, 8, 8))

    def test_a_step_has_its_own_size(self) -> None:
        grey = Samples(torch.full_like(self.data.images, 100), self.data.labels)  # far from where the range ends
        at = OnImages(Linear(torch.full((64,), 0.01)), self.at.original, grey, 0)
        for steps, relative_step in ((1, 2.5), (3, 0.1)):
            made = attack(
                at, epsilons=["none"], start="image", unbounded_step=7 / 255, steps=steps, relative_step=relative_step
            )
            assert (made.images == 100 + 7 * steps).all()

    def test_a_random_start_is_uniform_over_the_range(self) -> None:
        many = Samples(torch.zeros(500, 1, 8, 8, dtype=torch.uint8), torch.zeros(500, dtype=torch.int64))
        at = OnImages(self.at.model, self.at.original, many, 0)
        drawn = attack(at, epsilons=["none"], steps=1, unbounded_step=1e-9, variant="as_published").images.double()
        assert abs(drawn.mean() - 127.5) < 2 and abs(drawn.std() - 255 / 12**0.5) < 2

    def test_a_bounded_search_beside_it_is_the_search_alone(self) -> None:
        beside = attack(self.at, epsilons=["8/255", "none"], start="image", steps=5)
        alone = attack(self.at, epsilons=["8/255"], start="image", steps=5)
        assert torch.equal(beside.images[0], alone.images[0])
        assert torch.equal(beside.loss[0], alone.loss[0]) and (beside.loss[1] < beside.loss[0]).all()


class Sharpened(nn.Module):
    """A network for images, as one that reconstructs is."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scale * pixels + 0.1


class TestAnotherTask:
    at = OnImages(Sharpened(0.5), Sharpened(0.9), samples(12), 0, reconstruction)

    def test_the_search_goes_by_the_tasks_distance_towards_the_originals_answer(self) -> None:
        data = self.at.samples
        made = attack(self.at, epsilons=["64/255"], steps=40, loss="mse", batch_size=5)
        assert torch.equal(made.targets, self.at.original(data.images / 255).clamp(0, 1))
        # 0.5 x + 0.1 = 0.9 clean + 0.1 has its solution at 1.8 clean: each pixel goes there, or as far as it may.
        best = (1.8 * data.images.double()).minimum(data.images.double() + 64).clamp(max=255)
        assert (made.images[0].double() - best).abs().max() < 5
        reached = (0.5 * made.images[0] / 255 - 0.9 * data.images / 255).square().mean((1, 2, 3))
        assert torch.allclose(made.loss[0], reached, atol=1e-6)

    def test_a_distance_of_another_task_is_refused(self) -> None:
        with pytest.raises(ValueError, match="reconstruction: distance cannot be 'kl'"):
            attack(self.at)

    def test_a_wrong_label_is_refused_where_there_are_no_labels(self) -> None:
        with pytest.raises(ValueError, match="wrong_label is for tasks that have labels"):
            attack(self.at, loss="mse", target="wrong_label")


class Breaking(nn.Module):
    """Answers in numbers, until a pixel is brighter than any clean one is."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        score = pixels.mean((1, 2, 3))
        return torch.stack([score / (pixels.amax((1, 2, 3)) < 0.9), -score], 1)


@pytest.mark.parametrize("loss", ["kl", "mse", "bce", "cross_entropy"])
@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 3e38])
def test_a_model_that_is_not_finite_has_diverged(weight: float, loss: str) -> None:
    lost, sound = Linear(torch.full((64,), weight)), Linear(torch.ones(64))
    data = samples(16)
    for model, original, whose in ((lost, sound, "unlearned"), (sound, lost, "original")):
        with pytest.raises(models.Diverged, match=f"the {whose} model's outputs are not finite"):
            attack(OnImages(model, original, data, 0), steps=2, loss=loss)


def test_a_model_that_leaves_the_numbers_on_attacked_images_has_diverged() -> None:
    at = OnImages(Breaking(), Linear(torch.full((64,), 1e3)), samples(16), 0)
    with pytest.raises(models.Diverged, match="on attacked images are not finite"):
        attack(at, epsilons=["64/255"], steps=20, loss="cross_entropy")


@pytest.mark.parametrize("epsilon", ["-8/255", "0", "3/2", "8", "all", 0.03])
def test_an_epsilon_that_is_no_part_of_the_pixel_range_is_refused(epsilon: object) -> None:
    at = OnImages(tiny_model(1), tiny_model(2), samples(4), 0)
    with pytest.raises(ValueError, match=r"uma: epsilons cannot be .*; it takes .* in \(0, 1\] or none"):
        attack(at, epsilons=["8/255", epsilon])


def test_images_that_are_not_8_bits_are_refused() -> None:
    data = samples(4)
    with pytest.raises(ValueError, match="begin as uint8"):
        attack(OnImages(tiny_model(1), tiny_model(2), Samples(data.images / 255, data.labels), 0))


def test_kl_is_the_divergence_of_the_definition() -> None:
    a, b = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    p, q = b.softmax(1), a.softmax(1)
    assert torch.allclose(distance(a, b, "kl"), (p * (p / q).log()).sum(1))
    with pytest.raises(ValueError, match="takes kl, mse, bce, cross_entropy"):
        distance(a, b, "l2")


def images_of(train: Samples, test: Samples) -> Images:
    return Images.of(("a", "b", "c", "d"), train=train, test=test)


def test_unseen_images_are_test_images_of_the_forgotten_class() -> None:
    train, test = samples(80, 0), samples(40, 1)
    gone = train.labels == 2
    forget, retain = Samples(train.images[gone], train.labels[gone]), Samples(train.images[~gone], train.labels[~gone])
    aimed = aimed_at("unseen", images_of(train, test), forget, retain, 0)
    assert (aimed.labels == 2).all() and len(aimed.labels) == 10
    assert torch.equal(aimed.images, test.images[test.labels == 2])
    some, rest = Samples(*(t[:12] for t in train)), Samples(*(t[12:] for t in train))
    aimed = aimed_at("unseen", images_of(train, test), some, rest, 0)
    assert len(aimed.labels) == 12 and len(aimed.labels.unique()) == 4


def test_controls_are_test_images_of_classes_that_stay_and_a_split_that_was_held_back() -> None:
    train, test, other = samples(80, 0), samples(40, 1), samples(50, 2)
    gone = train.labels == 2
    forget, retain = Samples(train.images[gone], train.labels[gone]), Samples(train.images[~gone], train.labels[~gone])
    images = Images.of(("a", "b", "c", "d"), train=train, test=test, held_out=other)
    aimed = aimed_at("retained", images, forget, retain, 0)
    assert len(aimed.labels) == 10 and set(aimed.labels.tolist()) == {0, 1, 3}, "as many as of the forgotten class"
    known = {image.numpy().tobytes() for image in test.images[test.labels != 2]}
    assert {image.numpy().tobytes() for image in aimed.images} < known
    aimed = aimed_at("held_out", images, forget, retain, 0, at_most=7)
    known = {image.numpy().tobytes() for image in other.images}
    assert len(aimed.labels) == 7 and {image.numpy().tobytes() for image in aimed.images} < known


def test_at_most_so_many_images_are_attacked_and_they_are_drawn_from_all() -> None:
    train, test = samples(400, 0), samples(40, 1)
    forget, retain = Samples(*(t[:200] for t in train)), Samples(*(t[200:] for t in train))
    every = [bytes(image.flatten().tolist()) for image in forget.images]
    aimed = aimed_at("forget", images_of(train, test), forget, retain, 3, at_most=50)
    places = [every.index(bytes(image.flatten().tolist())) for image in aimed.images]
    assert places == sorted(set(places)) and len(places) == 50 and max(places) > 150
    assert torch.equal(aimed.labels, forget.labels[places])
    assert torch.equal(aimed_at("forget", images_of(train, test), forget, retain, 3, at_most=500).images, forget.images)


class Random(nn.Module):
    """A linear model of ten classes with random weights: it remembers nothing."""

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(64, 10, generator=torch.Generator().manual_seed(seed)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - 0.5).flatten(1) @ self.weight


def test_towards_its_own_answers_nothing_is_searched_and_nothing_moved() -> None:
    model, some, asked = Random(0, 1.0), samples(12, 0), []
    model.register_forward_hook(lambda *_: asked.append(1))
    made = attack(OnImages(model, model, some, 0), epsilons=["8/255", "none"], steps=50)
    assert torch.equal(made.images, some.images.expand(2, *some.images.shape)) and not made.loss.any()
    assert len(asked) < 10, "a search of 50 steps would ask more often"


class TestImagesOfWhichTheOriginalIsEquallySure:
    """The original is sure of most forgotten images and unsure of most test images; nobody remembers anything."""

    original, model = Random(1, 2.0), Random(2, 3.0)

    @pytest.fixture
    def planted(self) -> tuple[Images, Samples, Samples]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (4000, 1, 8, 8), dtype=torch.uint8, generator=generator)
        said = self.original(images / 255).softmax(1)
        labels, unsure = said.argmax(1), log_odds(said) < 0
        chance = torch.rand(len(labels), generator=generator)
        forgotten = torch.where(unsure, chance < 0.1, chance < 0.6)
        everything = Samples(images[forgotten], labels[forgotten])
        test = Samples(images[~forgotten & (unsure | (chance > 0.9))], labels[~forgotten & (unsure | (chance > 0.9))])
        data = Images.of(tuple("abcdefghij"), train=everything, test=test)
        return data, *(Samples(*(each[part] for each in everything)) for part in (slice(1200), slice(1200, None)))

    def reached(
        self, planted: tuple[Images, Samples, Samples], on: Any, width: float | None, loss: str = "kl"
    ) -> float:
        aimed = aimed_at(on, *planted, 0, width, self.original)
        asked = dict[str, Any](epsilons=["24/255"], steps=20, loss=loss)
        made = attack(OnImages(self.model, self.original, aimed, 0), **asked)
        found = self.model(made.images[0] / 255).argmax(1) == made.targets
        return float(found.float().mean()) * 100

    def test_what_only_the_targets_softness_hides_is_not_called_memory(
        self, planted: tuple[Images, Samples, Samples]
    ) -> None:
        as_they_come = [self.reached(planted, on, None) for on in ("forget", "unseen")]
        assert as_they_come[0] - as_they_come[1] > 10, "as they come the unseen images are reached less often"
        matched = [self.reached(planted, on, 0.5) for on in ("forget", "unseen")]
        assert abs(matched[0] - matched[1]) < 5, matched
        by_class = [self.reached(planted, on, None, "cross_entropy") for on in ("forget", "unseen")]
        assert abs(by_class[0] - by_class[1]) < 5, by_class

    def test_both_sets_have_as_many_images_of_each_confidence(self, planted: tuple[Images, Samples, Samples]) -> None:
        images, forget, retain = planted
        taken = [aimed_at(on, images, forget, retain, 7, 0.5, self.original) for on in ("forget", "unseen")]
        sure = [log_odds(self.original(part.images / 255).softmax(1)) for part in taken]
        counts = [Counter((one / 0.5).floor().tolist()) for one in sure]
        assert counts[0] == counts[1] and len(taken[0].labels) > 100
        for part, pool in zip(taken, (forget, Samples(images.test_images, images.test_labels)), strict=True):
            there = Counter(bytes(image.flatten().tolist()) for image in pool.images)
            assert not Counter(bytes(image.flatten().tolist()) for image in part.images) - there, "each at most once"
        bins = [Counter((log_odds(self.original(pool / 255).softmax(1)) / 0.5).floor().tolist())
                for pool in (forget.images, images.test_images)]  # fmt: skip
        assert counts[0] == bins[0] & bins[1], "and as many as there can be"
        again = aimed_at("unseen", images, forget, retain, 7, 0.5, self.original)
        assert torch.equal(again.images, taken[1].images)

    def test_a_cut_keeps_as_many_of_each_confidence_in_both(self, planted: tuple[Images, Samples, Samples]) -> None:
        taken = [aimed_at(on, *planted, 7, 0.5, self.original, at_most=40) for on in ("forget", "unseen")]
        counts = [
            Counter((log_odds(self.original(part.images / 255).softmax(1)) / 0.5).floor().tolist()) for part in taken
        ]
        assert counts[0] == counts[1] and counts[0].total() == 40

    def test_of_sets_that_share_no_confidence_nothing_is_taken(self) -> None:
        far = equal_parts(torch.tensor([0.1, 0.2]), torch.tensor([5.0]), 0.5, 0)
        assert [len(part) for part in far] == [0, 0]

    def test_odds_are_right_where_a_probability_is_all_but_one(self) -> None:
        logits = torch.tensor([[0.0, 20.0, -3.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
        wanted = [20 - math.log(1 + math.exp(-3)), -math.log(2)]
        assert log_odds(logits.softmax(1).float()).tolist() == pytest.approx(wanted, rel=1e-5)


def test_an_evaluation_scores_every_attack_against_the_label(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    forget, retain = Samples(*(t[:16] for t in data)), Samples(*(t[16:] for t in data))
    made = attack(OnImages(other, original, forget, 0), steps=10)
    attacked = predict.Attacked(
        "forget", tuple(LEVELS), made.images, forget.images, forget.labels, made.targets, made.loss
    )
    predicted = predict.outputs(other, images_of(data, samples(40, 1)), forget, retain, {"uma": attacked})
    rows = list(measure.measure({1: predicted}))
    found = {(row["attack"], row["epsilon"], row["metric"]): row for row in rows}
    assert len(found) == len(rows), "each measurement once"
    for index, epsilon in enumerate(LEVELS):
        right = sum(
            int(models.predict(other, image[None]).argmax()) == label
            for image, label in zip(made.images[index], forget.labels.tolist(), strict=True)
        )
        assert found["uma", epsilon, "forget_accuracy"]["value"] == pytest.approx(100 * right / 16)
        assert found["uma", epsilon, "largest_change_levels"]["value"] == LEVELS[epsilon]
    assert found["uma", "0", "forget_accuracy"]["value"] == found["none", "", "forget_accuracy"]["value"]
    assert found["none", "", "retain_accuracy"]["n"] == 48 and found["none", "", "test_accuracy_full"]["n"] == 40
    assert {row["unit"] for row in rows} == {"%", "fraction", "grey levels", "loss", "parameters"}


@pytest.mark.parametrize(
    ("name", "keywords"), [("resnet", {"width": 8}), ("resnet", {"width": 8, "depth": 50}), ("small_cnn", {})]
)
def test_the_copy_that_is_searched_computes_what_the_model_does(name: str, keywords: dict[str, int]) -> None:
    model = models.create(models.Spec(name, 4, 1, keywords), torch.tensor([0.4]), torch.tensor([0.2]), 0)
    model.train()
    images = samples(16).images / 255
    for _ in range(3):  # running statistics that are not the initial ones
        model(images)
    model.eval()
    copy = frozen(model, images)
    assert torch.allclose(copy(images), model(images), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_a_network_whose_order_of_registration_misleads_is_searched_as_it_is() -> None:
    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
            nn.init.constant_(self.norm.running_mean, 3.0)
            nn.init.constant_(self.conv.weight, 1.0)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(pixels)).flatten(1)

    model, images = Before().eval(), samples(4).images / 255
    assert torch.equal(frozen(model, images)(images), model(images))
