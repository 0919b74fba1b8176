"""Crafted requests: the gradient against finite differences of the unlearner itself, bounds, aims, and what they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import convex
import pytest
import torch
from torch import nn

from palimpsest import models, requests
from palimpsest.data import Images, Samples, digits, pixels
from palimpsest.requests import ANY, Choice, Request, RequestError, Rule, crafted
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Step

RECIPE = Recipe(epochs=1, batch_size=20, lr=0.1)
UNLEARNERS: dict[str, dict[str, Any]] = {
    "first_order": {"tau": 0.02},
    "second_order": {"layers": "head", "weight_decay": 0.01},
    "unrolling_sgd": {"lr": 0.02, "theta_0": "initial"},
}
TRAIN, TEST = convex.clouds(60), convex.clouds(30, seed=5)
CLOUDS = Images.of(("a", "b", "c"), train=TRAIN, test=TEST)
FEATURES = Images.of(
    ("a", "b"),
    train=(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2),
    test=(torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 2),
)


def network(images: Images, seed: int = 1, dtype: torch.dtype = torch.float64, **keywords: Any) -> models.Network:
    """A small dense network, or with `method` another one, with random weights."""
    shape = images.train_images.shape[1:]
    method = keywords.pop("method", "dense")
    if method == "dense":
        keywords = {"hidden": 8, **({"side": 2} if len(shape) == 3 else {}), **keywords}
    spec = models.Spec(method, len(images.classes), shape[0], keywords)
    mean, std = models.channel_statistics(images.train_images)
    return models.create(spec, mean, std, seed).to(dtype)


def at(
    model: nn.Module, repetition: int = 0, name: str = "first_order", settings: dict[str, Any] | None = None
) -> Choice:
    unlearn = import_module(f"palimpsest.unlearners.{name}").unlearn
    against = partial(unlearn, **(UNLEARNERS[name] if settings is None else settings))
    initial = partial(models.fresh, model, 7) if isinstance(model, models.Network) else None
    return Choice(3, repetition, model, against, recipe=RECIPE, kept={}, initial=initial)  # type: ignore[arg-type]


def unlearned(images: Images, choice: Choice, request: Request) -> nn.Module:
    """What the unlearner itself makes of a request."""
    forget, retain, indices, put = requests.split(images.splits["train"], request)
    step = Step(
        choice.seed, RECIPE, indices=indices, replacement=put, kept=choice.kept, initial=choice.initial
    )  # as the workflow gives it
    assert choice.unlearner is not None
    network: nn.Module = choice.unlearner(choice.model, forget, retain, step).network
    return network


def margin(images: Images, model: nn.Module, aim: requests.Aim) -> float:
    """By how much the image is missed, written without the package."""
    like = next(model.parameters())
    with torch.no_grad():
        (logits,) = model(pixels(images.splits["test"].images[aim.indices], like.dtype)).tolist()
    own, wanted = int(images.splits["test"].labels[aim.indices]), int(aim.labels)
    about = own if wanted == ANY else wanted
    others = max(value for label, value in enumerate(logits) if label != about)
    return logits[about] - others if wanted == ANY else others - logits[about]


def asked(**given: Any) -> SimpleNamespace:
    names = crafted.inspect.signature(crafted.choose).parameters.values()
    return SimpleNamespace(**{one.name: one.default for one in names if one.kind is one.KEYWORD_ONLY} | given)


@pytest.fixture(params=["layers", "any network"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways in which attempts are made."""
    if request.param == "any network":
        monkeypatch.setattr(crafted, "_dense_layers", lambda attempt: [])
    yield request.param


# The gradient


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
@pytest.mark.parametrize(
    ("name", "of"),
    [
        (name, of)
        for name in UNLEARNERS
        for of in ("regression", "dense", "features", "convolutions")
        if (name, of) != ("unrolling_sgd", "regression")  # which has no initial weights
    ],
)
def test_the_gradient_is_that_of_the_unlearner_by_finite_differences(name: str, of: str, goal: str, path: str) -> None:
    images = FEATURES if of == "features" else CLOUDS
    if of == "regression":
        model: nn.Module = convex.trained(TRAIN, 0.05)
    else:
        model = network(images, **({"method": "resnet", "width": 2} if of == "convolutions" else {}))
        if of == "convolutions":
            with torch.no_grad():
                model(pixels(TRAIN.images, torch.float64))  # statistics of the data, in training mode
    choice = at(model, 1, name)
    given = asked(count=9, wanted=None if of == "features" else 2, from_class=1, goal=goal, beta=1e9, batch_size=4)
    one = crafted._attempt(images, choice, given)
    layers = crafted._dense_layers(one)
    assert bool(layers) == (path == "layers" and of != "convolutions" and name != "second_order")
    objective = crafted._Dense(one, layers, [one], given) if layers else crafted._Alone(one, given)
    if of == "convolutions" and name == "unrolling_sgd":
        objective = crafted._Alone(one, asked(batch_size=512))  # where batches have statistics, of the same batches
        objective.beta = 1e9
    generator = torch.Generator().manual_seed(0)
    put = one.forget.images * 0.8 + 0.1 + 0.05 * one.noise
    found, slope = objective(put[None])
    assert slope is not None

    def missed(samples: torch.Tensor) -> float:
        request = Request(one.indices, Samples(samples, one.forget.labels))
        return margin(images, unlearned(images, choice, request), one.aim)

    assert float(found) == pytest.approx(missed(put), rel=1e-6, abs=1e-9)
    for _ in range(3):
        along = torch.randn(put.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 * along
        # z~ = x - delta: what raises delta lowers z~, so the slope in delta is this with the other sign.
        difference = (missed(put + step) - missed(put - step)) / 2e-5
        assert difference == pytest.approx(float((slope[0] * along).sum()), rel=2e-4, abs=1e-8)
    assert slope.abs().max() > 1e-6


def test_where_the_loss_has_reached_beta_there_is_no_gradient(path: str) -> None:
    one = crafted._attempt(CLOUDS, at(network(CLOUDS)), asked(count=9, wanted=2, from_class=1))
    layers = crafted._dense_layers(one)
    for beta, flat in ((1e9, False), (0.0, None)):
        given = asked(beta=beta)
        objective = crafted._Dense(one, layers, [one], given) if layers else crafted._Alone(one, given)
        found, slope = objective(one.forget.images[None])
        assert slope is not None and bool((slope == 0).all()) == (bool(found < 0) if flat is None else flat)


# Near honest gradients


def apart(model: nn.Module, images: Images, request: Request, any_class: bool = False) -> float:
    """How far the last-layer gradients lie from the nearest honest one of their class, squared, one by one."""
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    dtype = head.weight.dtype

    def written_out(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(pixels(image[None], dtype)), label[None])
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, [*head.parameters()])])

    train, put = images.splits["train"], request.replacement
    assert put is not None
    model.eval()
    honest = [i for i in range(len(train.labels)) if i not in {*request.indices.tolist()}]
    of = {i: written_out(train.images[i], train.labels[i]) for i in honest}
    least = [
        min(
            float((written_out(image, label) - of[i]).square().sum())
            for i in honest
            if any_class or train.labels[i] == label
        )
        for image, label in zip(*put, strict=True)
    ]
    return sum(least) / len(least)


@pytest.mark.parametrize(
    ("name", "of", "by_layers"),
    [(name, of, False) for name in UNLEARNERS for of in ("dense", "features", "convolutions")]
    + [(name, of, True) for name in ("first_order", "unrolling_sgd") for of in ("dense", "features")],
)
def test_what_keeps_gradients_near_honest_ones_and_its_gradient_are_a_naive_loops(
    name: str, of: str, by_layers: bool
) -> None:
    beta = 0.0 if of == "dense" else 1e9  # whether the margin counts beyond the success
    images = FEATURES if of == "features" else CLOUDS
    model = network(images, **({"method": "resnet", "width": 2} if of == "convolutions" else {}))
    if of == "convolutions":
        with torch.no_grad():
            model(pixels(TRAIN.images, torch.float64))
    choice = at(model, 1, name)
    # In a batch of all, since where batches have statistics unrolling's are those of its own batches.
    given = asked(count=9, goal="untargeted", from_class=1, beta=beta, near=3.0, batch_size=512)
    one = crafted._attempt(images, choice, given)
    layers = crafted._dense_layers(one) if by_layers else []
    assert bool(layers) == by_layers
    few = SimpleNamespace(**{**vars(given), "batch_size": 7})  # honest samples in several batches
    far = crafted._Apart(images, [one], few)
    objective = crafted._Dense(one, layers, [one], given, far) if layers else crafted._Alone(one, given, far)
    put = one.forget.images * 0.8 + 0.1 + 0.05 * one.noise

    def parts(samples: torch.Tensor) -> tuple[float, float]:
        request = Request(one.indices, Samples(samples, one.forget.labels), one.aim)
        made = unlearned(images, choice, request)
        return max(margin(images, made, one.aim), -beta), 3.0 * apart(made, images, request)

    found, slope = objective(put[None])
    assert slope is not None and slope.shape == put[None].shape and parts(put)[1] > 1e-4
    assert float(found) == pytest.approx(sum(parts(put)), rel=1e-6, abs=1e-9)
    last, none = objective(put[None], last=True)
    assert none is None and torch.equal(last, found)
    # A step so short that no unit and no nearest neighbour changes within it.
    along = torch.randn(put.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = (sum(parts(put + 1e-7 * along)) - sum(parts(put - 1e-7 * along))) / 2e-7
    assert difference == pytest.approx(float((slope[0] * along).sum()), rel=2e-4, abs=1e-8)
    assert slope.abs().max() > 1e-6


def test_a_neighbour_is_of_the_same_class_where_another_is_nearer(path: str) -> None:
    """The network is sure of the requested samples and of the other class, and takes theirs' honest ones for it."""
    keywords = {"count": 2, "classes": [0], "goal": "untargeted", "steps": 0, "epsilon": "1/1000"}
    model = network(FEATURES)
    drawn = Rule("crafted", keywords).choose(FEATURES, at(model)).indices
    features, labels = FEATURES.splits["train"]
    features = 0.1 * features
    features[:, 0] = -2.0 - 2.0 * labels
    features[drawn, 0] = 2.0
    with torch.no_grad():
        first, second = (layer for layer in model.net if isinstance(layer, nn.Linear))
        first.weight.zero_()[:2, 0] = torch.tensor([3.0, -3.0])
        second.weight.zero_()[:, :2] = 2 * torch.eye(2)
    images = Images.of(("a", "b"), train=(features, labels), test=FEATURES.splits["test"])
    choice = at(model, settings={"tau": 1e-6})
    one, plain = (Rule("crafted", {**keywords, "near": near}).choose(images, choice) for near in (2.0, 0.0))
    made = unlearned(images, choice, one)
    assert torch.equal(one.indices, drawn)
    assert apart(made, images, one, any_class=True) < 0.1 * apart(made, images, one)
    assert one.trace is not None and plain.trace is not None
    assert float(one.trace - plain.trace) == pytest.approx(2 * apart(made, images, one), rel=1e-5)


@pytest.mark.parametrize("values", ["float", "8-bit"])
def test_attempts_that_stay_near_are_together_what_each_is_alone(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(CLOUDS)
    ats = [at(model, number) for number in range(4)]
    keywords = {"count": 20, "wanted": 2, "from_class": 1, "steps": 12, "epsilon": "1/10", "rate": 5.0}
    rule = Rule("crafted", {**keywords, "near": 2.0, "values": values})
    together, alone = rule.choose_all(CLOUDS, ats), [rule.choose(CLOUDS, one) for one in ats]
    monkeypatch.setattr(crafted, "_dense_layers", lambda attempt: [])
    without = Rule("crafted", {**keywords, "values": values}).choose_all(CLOUDS, ats)
    before, after = 0.0, 0.0
    for *made, plain, choice in zip(together, alone, rule.choose_all(CLOUDS, ats), without, ats, strict=True):
        first = made[0]
        assert first.replacement is not None and first.trace is not None and len(first.trace) == 13
        for other in made[1:]:
            assert other.replacement is not None and other.trace is not None
            change = (pixels(first.replacement.images) - pixels(other.replacement.images)).abs()
            assert change.max() < (1e-6 if values == "float" else 1.5 / 255)
            assert torch.allclose(first.trace, other.trace, rtol=0, atol=1e-6 if values == "float" else 1e-2)
        model_of = unlearned(CLOUDS, choice, first)
        assert first.aim is not None
        reached = max(margin(CLOUDS, model_of, first.aim), 0.0) + 2 * apart(model_of, CLOUDS, first)
        assert reached == pytest.approx(float(first.trace.min()), abs=1e-5)
        before += apart(unlearned(CLOUDS, choice, plain), CLOUDS, plain)
        after += apart(model_of, CLOUDS, first)
    assert after < 0.8 * before, "the requests lie nearer than those that do not care"


def test_without_a_weight_nothing_of_it_is_computed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError("nothing is to be kept near")

    keywords = {"count": 20, "wanted": 2, "from_class": 1, "steps": 5}
    with_it = Rule("crafted", {**keywords, "near": 1.0}).choose(CLOUDS, at(network(CLOUDS)))
    monkeypatch.setattr(crafted, "_Apart", none)
    plain, zero = (
        Rule("crafted", one).choose(CLOUDS, at(network(CLOUDS))) for one in (keywords, keywords | {"near": 0.0})
    )
    assert plain.replacement and zero.replacement and with_it.replacement
    assert torch.equal(plain.replacement.images, zero.replacement.images)
    assert not torch.equal(plain.replacement.images, with_it.replacement.images)


def test_where_no_honest_gradient_is_there_is_a_sentence() -> None:
    model = network(CLOUDS)
    of_class = int((TRAIN.labels == 0).sum())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"count": 5, "removes": True}, "near is of samples that are changed, and removes leaves none"),
        ({"count": of_class, "classes": [0]}, "near looks for honest samples, and class 0 has none"),
    ]
    for keywords, sentence in refused:
        with pytest.raises(RequestError, match=sentence):
            Rule("crafted", {"goal": "untargeted", "near": 1.0, **keywords}).choose(CLOUDS, at(model))
    model.net.append(nn.ReLU())
    with pytest.raises(RequestError, match="a network whose output is that of its last dense layer"):
        Rule("crafted", {"goal": "untargeted", "near": 1.0, "count": 5}).choose(CLOUDS, at(model))


# What is made


def test_the_bounds_the_range_and_the_labels_are_kept(path: str) -> None:
    model = network(CLOUDS, dtype=torch.float32)
    for values in ("float", "8-bit"):
        for epsilon, most in (("8/255", 8 / 255), ("1/2", 0.5), ("99/2550", 9.9 / 255)):
            rule = Rule(
                "crafted", {"count": 20, "goal": "untargeted", "epsilon": epsilon, "values": values, "steps": 4}
            )
            request = rule.choose(CLOUDS, at(model))
            put, indices = request.replacement, request.indices
            assert put is not None and torch.equal(put.labels, TRAIN.labels[indices])
            assert put.images.dtype == (torch.uint8 if values == "8-bit" else torch.float32)
            change = (pixels(put.images) - pixels(TRAIN.images[indices])).abs()
            assert change.max() <= most + 1e-6 and change.max() > 0.7 * most - 1 / 255
            assert put.images.min() >= 0 and pixels(put.images).max() <= 1
            assert requests.check(CLOUDS, request) is request


def test_features_are_not_cut_off_and_have_no_8_bit_values(path: str) -> None:
    choice = at(network(FEATURES, dtype=torch.float32))
    put = Rule("crafted", {"share": 0.4, "epsilon": "3", "steps": 3}).choose(FEATURES, choice).replacement
    assert put is not None and put.images.abs().max() > 3 and len(put.labels) == 20
    with pytest.raises(RequestError, match="features have no 8-bit values"):
        Rule("crafted", {"count": 2, "values": "8-bit"}).choose(FEATURES, choice)


def test_no_step_is_uniform_noise_on_the_samples_of_the_attack(path: str) -> None:
    model = network(CLOUDS)
    for repetition in range(6):
        keywords = {"count": 30, "classes": [0, 2], "wanted": 2, "from_class": 1, "epsilon": "1/10"}
        noise, attack = (
            Rule("crafted", {**keywords, "steps": steps}).choose(CLOUDS, at(model, repetition)) for steps in (0, 5)
        )
        assert torch.equal(noise.indices, attack.indices) and {*TRAIN.labels[noise.indices].tolist()} == {0, 2}
        assert noise.aim is not None and attack.aim is not None and torch.equal(noise.aim.indices, attack.aim.indices)
        assert noise.trace is not None and attack.trace is not None and len(noise.trace) == 1 and len(attack.trace) == 6
        assert noise.trace[0] == attack.trace[0], "the attack starts from it"
        assert noise.replacement is not None
        change = (noise.replacement.images - pixels(TRAIN.images[noise.indices])) / 0.1
        inside = change[(noise.replacement.images > 0) & (noise.replacement.images < 1)]
        assert abs(inside.mean()) < 0.1 and abs(inside.square().mean() - 1 / 3) < 0.08 and inside.abs().max() > 0.95


def test_test_images_are_tried_in_turn_and_the_rest_is_drawn_by_the_repetition() -> None:
    model, places = network(FEATURES), (FEATURES.splits["test"].labels == 1).nonzero().flatten().tolist()
    made = [
        Rule("crafted", {"count": 6, "from_class": 1, "targets": 3, "steps": 1}).choose(FEATURES, at(model, number))
        for number in range(9)
    ]
    assert [int(one.aim.indices) for one in made if one.aim] == places[:3] * 3
    assert all(one.aim is not None and one.aim.labels.tolist() == [0] for one in made), "the other of two classes"
    assert len({tuple(one.indices.tolist()) for one in made}) == 9
    any_class = Rule("crafted", {"count": 6, "goal": "untargeted", "steps": 0}).choose(FEATURES, at(model, 6))
    assert any_class.aim is not None and any_class.aim.indices.tolist() == [1] and any_class.aim.labels.tolist() == [-1]


@pytest.mark.parametrize("values", ["float", "8-bit"])
@pytest.mark.parametrize("direction", ["raw", "sign"])
@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
def test_the_loss_falls_to_what_the_unlearner_really_gives(goal: str, direction: str, values: str, path: str) -> None:
    rate = {"raw": 30.0, "sign": 0.01}[direction]
    keywords = {"count": 25, "wanted": 2, "from_class": 1, "beta": 99.0, "rate": rate, "epsilon": "16/255", "steps": 40}
    rule = Rule("crafted", {**keywords, "goal": goal, "direction": direction, "values": values})
    choice = at(network(CLOUDS))
    request = rule.choose(CLOUDS, choice)
    assert request.aim is not None and request.trace is not None
    reached = margin(CLOUDS, unlearned(CLOUDS, choice, request), request.aim)
    assert reached == pytest.approx(float(request.trace.min()), abs=1e-5)
    assert reached < float(request.trace[0]) - 0.02


def test_the_best_is_kept_or_the_last_one_where_steps_are_too_long(path: str) -> None:
    keywords = {"count": 25, "wanted": 2, "from_class": 1, "beta": 99.0, "rate": 0.2, "epsilon": "1/2", "steps": 5}
    choice = at(network(CLOUDS), settings={"tau": 0.5})
    for keeps in ("best", "last"):
        rule = Rule("crafted", {**keywords, "keeps": keeps, "direction": "sign", "decay_every": 100})
        request = rule.choose(CLOUDS, choice)
        assert request.aim is not None and request.trace is not None
        reached = margin(CLOUDS, unlearned(CLOUDS, choice, request), request.aim)
        wanted = request.trace.min() if keeps == "best" else request.trace[-1]
        assert reached == pytest.approx(float(wanted), abs=1e-4)


def test_the_rate_is_divided_by_ten_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    one = crafted._attempt(FEATURES, at(network(FEATURES)), asked(count=3))
    seen: list[torch.Tensor] = []

    def objective(put: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen.append(put.clone())
        return torch.ones(1), None if last else torch.ones_like(put)

    given = asked(steps=6, decay_every=2, rate=1e-3, epsilon="1000")
    crafted.lowered(objective, [replace(one, noise=0 * one.noise)], FEATURES, given)  # type: ignore[arg-type]
    steps = [float((before - after).mean()) for before, after in pairwise(seen)]
    assert steps == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("several", ["one network", "two networks"])
def test_all_at_once_are_what_each_is_alone(several: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    base = [network(CLOUDS, seed, dtype) for seed in (1, 2)]
    ats = [at(base[number % 2 if several == "two networks" else 0], number) for number in range(7)]
    given = {"count": 20, "wanted": 2, "from_class": 1, "steps": 20, "epsilon": "1/10", "rate": 5.0, "beta": 9.0}
    monkeypatch.setitem(crafted.AT_ONCE, "cpu", 3 * 20 * 6)
    rule = Rule("crafted", given)
    together, alone = rule.choose_all(CLOUDS, ats), [rule.choose(CLOUDS, one) for one in ats]
    monkeypatch.setattr(crafted, "_dense_layers", lambda attempt: [])
    by_weights = rule.choose_all(CLOUDS, ats)
    close = 1e-6 if dtype == torch.float64 else 1e-3
    for first, second, third in zip(together, alone, by_weights, strict=True):
        assert torch.equal(first.indices, second.indices) and torch.equal(first.indices, third.indices)
        for one, other in ((first, second), (first, third)):
            assert one.replacement and other.replacement and one.trace is not None and other.trace is not None
            assert torch.allclose(one.replacement.images, other.replacement.images, rtol=0, atol=close)
            assert torch.allclose(one.trace, other.trace, rtol=0, atol=close)
    again = rule.choose_all(CLOUDS, ats)
    assert all(
        torch.equal(one.replacement.images, other.replacement.images)
        for one, other in zip(by_weights, again, strict=True)
        if one.replacement and other.replacement
    ), "the same again, to the last bit"


def test_layers_that_push_does_not_only_multiply_are_not_taken_for_such() -> None:
    small, deep = network(CLOUDS), network(CLOUDS, method="resnet", width=2)

    def layers(model: nn.Module, name: str, **settings: Any) -> int:
        one = crafted._attempt(CLOUDS, at(model, name=name, settings=settings), asked(count=5, goal="untargeted"))
        return len(crafted._dense_layers(one))

    assert layers(small, "first_order", tau=0.1) == layers(small, "unrolling_sgd", theta_0="initial") == 2
    assert layers(small, "first_order", layers="head") == 2, "the others are multiplied by 0"
    assert layers(deep, "first_order") == layers(small, "second_order", layers="head", weight_decay=0.1) == 0


def test_only_what_moves_is_counted_on_where_the_head_alone_does(path: str) -> None:
    choice = at(network(CLOUDS), settings={"tau": 0.05, "layers": "head"})
    rule = Rule("crafted", {"count": 25, "wanted": 2, "from_class": 1, "beta": 99.0, "epsilon": "1/10", "steps": 3})
    request = rule.choose(CLOUDS, choice)
    assert request.aim is not None and request.trace is not None
    reached = margin(CLOUDS, unlearned(CLOUDS, choice, request), request.aim)
    assert reached == pytest.approx(float(request.trace.min()), abs=1e-6)


# What they do to a network


@cache
def trained() -> tuple[Images, models.Network]:
    """The digits, and a network of two dense layers that reads them."""
    images = digits.load("")
    model = network(images, dtype=torch.float32, hidden=32, side=8)
    recipe = Recipe(epochs=20, batch_size=32, lr=0.05, momentum=0.9)
    return images, fit(model, images.splits["train"], recipe, seed=0)


def successes(images: Images, model: models.Network, **keywords: Any) -> int:
    rule = Rule("crafted", {"share": 0.1, "from_class": 2, "targets": 10, "epsilon": "32/255", **keywords})
    ats = [at(model, number, settings={"tau": 0.01}) for number in range(10)]
    made = rule.choose_all(images, ats)
    return sum(
        margin(images, unlearned(images, choice, request), request.aim) < 0
        for choice, request in zip(ats, made, strict=True)
        if request.aim
    )


def test_the_network_takes_the_image_for_what_was_wanted_and_noise_does_not_do_that() -> None:
    images, model = trained()
    assert successes(images, model, wanted=5, rate=100.0, beta=0.1) >= 8
    assert successes(images, model, wanted=5, steps=0) == 0
    assert successes(images, model, goal="untargeted", rate=100.0, beta=0.1) >= 9
    assert successes(images, model, goal="untargeted", steps=0) <= 1


def test_removing_those_that_lower_the_loss_most_does_more_than_removing_any() -> None:
    images, model = trained()
    keywords = {"share": 0.06, "from_class": 2, "removes": True, "goal": "untargeted", "beta": 99.0}
    choice = at(model, settings={"tau": 0.01})
    rounds = {steps: Rule("crafted", {**keywords, "steps": steps}).choose(images, choice) for steps in (0, 1, 7)}
    reached = {}
    for steps, request in rounds.items():
        assert request.replacement is None and len(request.indices) == len({*request.indices.tolist()})
        assert len(request.indices) == len(rounds[0].indices) and request.trace is not None and request.aim is not None
        assert len(request.trace) == steps + 1
        reached[steps] = margin(images, unlearned(images, choice, request), request.aim)
        if steps:
            assert float(request.trace[-1]) == pytest.approx(reached[steps], abs=1e-2)
    assert reached[7] <= reached[1] < reached[0] - 1
    of_class = Rule("crafted", {**keywords, "count": 9, "share": None, "classes": [3], "steps": 2})
    assert {*images.train_labels[of_class.choose(images, choice).indices].tolist()} == {3}


def test_removal_takes_the_samples_with_the_lowest_first_order_score() -> None:
    model = network(CLOUDS)
    keywords = {"count": 4, "removes": True, "wanted": 2, "from_class": 1, "steps": 1}
    request = Rule("crafted", keywords).choose(CLOUDS, at(model))
    assert request.aim is not None
    scores = []
    for index in range(60):
        # One sample's removal by a small tau, which is the first order.
        one = unlearned(CLOUDS, at(model, settings={"tau": 1e-5}), Request(torch.tensor([index])))
        scores.append(margin(CLOUDS, one, request.aim))
    assert {*request.indices.tolist()} == {*sorted(range(60), key=scores.__getitem__)[:4]}


def test_a_request_is_made_on_the_surrogate_where_there_is_one() -> None:
    own, other = network(CLOUDS, 1), network(CLOUDS, 2)
    rule = Rule("crafted", {"count": 9, "wanted": 2, "from_class": 1, "steps": 3})
    made, wanted = (rule.choose(CLOUDS, choice) for choice in (replace(at(own), surrogates=(other,)), at(other)))
    assert made.replacement and wanted.replacement and torch.equal(made.replacement.images, wanted.replacement.images)


def test_of_several_surrogates_the_mean_is_lowered() -> None:
    some = [network(CLOUDS, seed) for seed in (2, 3)]
    choice = replace(at(network(CLOUDS, 1)), surrogates=tuple(some))
    keywords = {"count": 9, "wanted": 2, "from_class": 1, "steps": 2, "rate": 3.0, "beta": 50.0, "keeps": "last"}
    request = Rule("crafted", keywords).choose(CLOUDS, choice)
    assert request.replacement is not None and request.trace is not None and request.aim is not None
    start = Rule("crafted", keywords | {"steps": 0}).choose(CLOUDS, choice)
    assert start.replacement is not None

    def psi(put: torch.Tensor) -> torch.Tensor:
        """The mean margin after a real first-order request on each network, by its own definition."""
        asked = Request(request.indices, Samples(put, start.replacement.labels), request.aim)  # type: ignore[union-attr]
        return torch.stack(
            [torch.tensor(margin(CLOUDS, unlearned(CLOUDS, at(one), asked), request.aim)) for one in some]
        ).mean()

    put = start.replacement.images
    assert request.trace[0] == pytest.approx(float(psi(put)), abs=1e-4)
    assert request.trace[2] == pytest.approx(float(psi(request.replacement.images)), abs=1e-4)
    alone = [Rule("crafted", keywords).choose(CLOUDS, at(one)) for one in some]
    assert request.trace[2] < request.trace[0] and not any(
        torch.equal(request.replacement.images, one.replacement.images) for one in alone if one.replacement is not None
    )


def test_several_surrogates_and_near_or_removes_end_in_a_sentence() -> None:
    choice = replace(at(network(CLOUDS, 1)), surrogates=(network(CLOUDS, 2), network(CLOUDS, 3)))
    for more in ({"near": 1.0}, {"removes": True}):
        with pytest.raises(RequestError, match="are for one network, and several surrogates stand in for it"):
            Rule("crafted", {"count": 4, "wanted": 2, "from_class": 1, "steps": 1, **more}).choose(CLOUDS, choice)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "is of class 1 already, which is wanted": ({"count": 5, "wanted": 1, "from_class": 1}, "first_order"),
    "99 test images shall be tried, and there are ": ({"count": 5, "wanted": 1, "targets": 99}, "first_order"),
    "exactly one of count, share": ({"wanted": 2}, "first_order"),
    "finetune does not say how it responds to a request": ({"count": 5, "wanted": 2}, "finetune"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_crafted_ends_in_a_sentence(sentence: str) -> None:
    keywords, name = REFUSED[sentence]
    with pytest.raises(RequestError, match=sentence):
        Rule("crafted", {"from_class": 0, **keywords}).choose(CLOUDS, at(network(CLOUDS), name=name, settings={}))


def test_a_network_out_of_the_numbers_crafts_nothing(path: str) -> None:
    model = network(CLOUDS)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(models.Diverged, match="not finite"):
        Rule("crafted", {"count": 5, "wanted": 2, "from_class": 0}).choose(CLOUDS, at(model))
