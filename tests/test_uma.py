"""UMA against something independent."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from test_unlearners import samples, tiny_model
from torch import nn

from palimpsest import measure, models, predict
from palimpsest.attacks import aimed_at
from palimpsest.attacks.uma import attack, distance
from palimpsest.data import Images, Samples
from palimpsest.frozen import frozen
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
    original = fit(tiny_model(1), data.images, data.labels, recipe, seed=1)
    other = fit(tiny_model(2), data.images, (data.labels + 1) % 4, recipe, seed=2)
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
    made = attack(Linear(weight), original, images, labels, seed=0, steps=40, loss=loss)
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

    made = attack(original, Offset(), images, torch.zeros(4, dtype=torch.int64), seed=0, steps=200, epsilons=["8/255"])
    reached, wanted = original(made.images[0] / 255), original(shifted / 255)
    start = distance(original(images / 255), wanted, "kl")
    assert (distance(reached, wanted, "kl") < start / 50).all()


def test_saved_images_lie_within_epsilon_exactly(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    dark_and_bright = Samples(torch.where(data.images > 100, 254, 1).to(torch.uint8), data.labels)
    for part in (data, dark_and_bright):
        made = attack(other, original, *part, seed=0, steps=10)
        for block, levels in zip(made.images, LEVELS.values(), strict=True):
            change = (block.int() - part.images.int()).abs()
            assert change.max() == levels, "the bound is used, and never passed"


def test_without_steps_nothing_changes(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    made = attack(other, original, *data, seed=0, steps=0)
    assert torch.equal(made.images, data.images.expand(2, *data.images.shape))


def test_more_steps_never_raise_the_mean_loss(trained: tuple[models.Network, models.Network, Samples]) -> None:
    original, other, data = trained
    losses = [attack(other, original, *data, seed=0, steps=steps).loss.mean(1) for steps in (0, 5, 20, 80)]
    for fewer, more in pairwise(losses):
        assert (more <= fewer + 1e-6).all(), losses
    assert (losses[-1] < 0.95 * losses[0]).all(), "and the attack does something"


def test_both_epsilons_in_one_batch_are_the_two_attacks_alone(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    together = attack(other, original, *data, seed=0, steps=10, start="image")
    for index, epsilon in enumerate(LEVELS):
        alone = attack(other, original, *data, seed=0, steps=10, start="image", epsilons=[epsilon], batch_size=7)
        assert (together.images[index] == alone.images[0]).float().mean() > 0.999


def test_weights_gradients_and_flags_of_both_models_stay(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    for model in (original, other):
        model.zero_grad(set_to_none=True)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (original, other)]
    attack(other, original, *data, seed=0, steps=3)
    for model, state in zip((original, other), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_wrong_target_is_neither_the_truth_nor_the_originals_answer(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    made = attack(other, original, *data, seed=0, steps=20, target="wrong_label")
    answers = models.predict(original, data.images).argmax(1)
    assert not (made.targets == data.labels).any() and not (made.targets == answers).any()
    assert len(made.targets.unique()) == 4, "targets are spread over the classes"
    towards = attack(other, original, *data, seed=0, steps=0, target="wrong_label")
    assert (made.loss.mean(1) < towards.loss.mean(1)).all(), "the search goes towards them"


def test_kl_is_the_divergence_of_the_definition() -> None:
    a, b = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    p, q = b.softmax(1), a.softmax(1)
    assert torch.allclose(distance(a, b, "kl"), (p * (p / q).log()).sum(1))
    with pytest.raises(ValueError, match="takes kl, mse, bce, cross_entropy"):
        distance(a, b, "l2")


def images_of(train: Samples, test: Samples) -> Images:
    return Images(train.images, train.labels, test.images, test.labels, ("a", "b", "c", "d"))


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


def test_an_evaluation_scores_every_attack_against_the_label(
    trained: tuple[models.Network, models.Network, Samples],
) -> None:
    original, other, data = trained
    forget, retain = Samples(*(t[:16] for t in data)), Samples(*(t[16:] for t in data))
    made = attack(other, original, *forget, seed=0, steps=10)
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
    assert {row["unit"] for row in rows} == {"%", "fraction", "grey levels", "nats", "parameters"}


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
