"""Requests that replace samples, and the map that an attacker differentiates: against exact matrices and by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from convex import clouds, hessian, objective, trained
from test_unlearners import CLASSES, FORGET, RETAIN, served, tiny_model
from torch.nn import functional as F

from palimpsest import models
from palimpsest.curvature import gradient, hessian_product, place, weights
from palimpsest.data import Samples, pixels
from palimpsest.seeds import stable_seed
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import (
    Base,
    Step,
    amnesiac,
    first_order,
    influence_lissa,
    second_order,
    sisa,
    unrolling_sgd,
)

PLAIN = Recipe(epochs=1, batch_size=1000, lr=0.1, momentum=0.0, weight_decay=0.0)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def part(samples: Samples, index: torch.Tensor) -> Samples:
    return Samples(samples.images[index], samples.labels[index])


def normed(seed: int) -> models.Network:
    """A network with BatchNorm, in float64, with fresh weights."""
    spec = models.Spec("resnet", CLASSES, 1, {"width": 2})
    return models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), seed).double()


class TestReplacedSamples:
    """600 samples, named in no order, become floats with other labels: more than one batch of gradients, of LiSSA."""

    DECAY = 0.05
    DATA = clouds(1400)
    INDICES = torch.randperm(1400, generator=torch.Generator().manual_seed(1))[:600]
    FORGET = part(DATA, INDICES)
    STAYS = torch.ones(1400, dtype=torch.bool).index_fill(0, INDICES, False)
    RETAIN = part(DATA, STAYS.nonzero().flatten())
    PUT = Samples(0.5 + 0.5 * (pixels(FORGET.images, torch.float64) - 0.5), (FORGET.labels + 1) % 3)
    NOW = Samples(pixels(DATA.images, torch.float64), DATA.labels.clone())
    for place_of, image, label in zip(INDICES.tolist(), *PUT, strict=True):
        NOW.images[place_of], NOW.labels[place_of] = image, label
    RECIPE = Recipe(epochs=1, batch_size=1, lr=0.1, weight_decay=DECAY)

    def step(self, method: Any, **settings: Any) -> torch.Tensor:
        model = trained(self.DATA, self.DECAY)
        request = {"indices": self.INDICES, "replacement": self.PUT, "seed": 3, "recipe": self.RECIPE}
        after = served(method, model, self.FORGET, self.RETAIN, **request, **settings)
        return weights(after) - weights(model)

    def difference(self, at: torch.Tensor, index: slice = slice(None)) -> torch.Tensor:
        """sum dl(z) - sum dl(z~) at the weights `at`, from the objective that is written without the package."""
        sums = []
        for samples in (self.FORGET, self.PUT):
            some = Samples(samples.images[index], samples.labels[index])
            sums.append(torch.func.grad(objective)(at, some, 0.0) * len(some.labels))
        return sums[0] - sums[1]

    @property
    def start(self) -> torch.Tensor:
        return weights(trained(self.DATA, self.DECAY))

    def test_first_order_and_unrolling(self) -> None:
        wanted = 0.01 * self.difference(self.start)
        assert relative(self.step(first_order, tau=0.01), wanted) < 1e-12
        assert relative(self.step(unrolling_sgd, lr=0.005, copies=2), wanted) < 1e-12
        assert relative(self.step(unrolling_sgd, lr=0.005, copies=2, reduction="mean"), wanted / 600) < 1e-12
        other = trained(clouds(200, seed=5), 0.2)
        found = self.step(unrolling_sgd, lr=0.01, theta_0="initial", initial=lambda: other)
        assert relative(found, 0.01 * self.difference(weights(other))) < 1e-12

    @pytest.mark.parametrize("of", ["original", "remaining"])
    def test_second_order_is_an_explicit_inverse(self, of: str) -> None:
        data = self.DATA if of == "original" else self.NOW
        matrix = hessian(self.start, data, self.DECAY)
        ends = torch.linalg.eigvalsh(matrix)
        wanted = torch.linalg.solve(matrix + 1e-3 * ends[-1] * torch.eye(21), self.difference(self.start)) / 1400
        assert relative(self.step(second_order, hessian=of, tolerance=1e-10), wanted) < 1e-6
        assert relative(self.step(second_order, hessian=of, layers="head"), wanted) < 1e-6, "factorised"
        assert (
            relative(self.step(second_order, hessian=of, layers="head", factorised=0, tolerance=1e-10), wanted) < 1e-6
        )
        newton = torch.linalg.solve(matrix, self.difference(self.start)) / 1400
        assert relative(self.step(second_order, hessian=of), newton) < 0.02, "and the damping is no more than that"
        other = hessian(self.start, self.NOW if of == "original" else self.DATA, self.DECAY)
        assert relative(torch.linalg.solve(other, self.difference(self.start)) / 1400, newton) > 0.05

    def test_second_order_by_lissa_takes_the_batches_of_one_order_of_the_set_as_it_is_then(self) -> None:
        order = torch.randperm(1400, generator=torch.Generator().manual_seed(3))
        batches = [hessian(self.start, part(self.NOW, one), self.DECAY) for one in order.split(500)]
        assert len(batches) == 3
        v = self.difference(self.start) / 1400
        u = v
        for step in range(7):
            u = v + 0.99 * u - batches[step % 3] @ u / 2.0
        settings: dict[str, Any] = {"solver": "lissa", "damping": 0.01, "scale": 2.0, "depth": 7, "batch_size": 500}
        assert relative(self.step(second_order, hessian="remaining", **settings), u / 2.0) < 1e-7  # replaced in float32
        many = {**settings, "scale": 3.0, "damping": 0.0, "depth": None, "patience": None}
        exact = torch.linalg.solve(hessian(self.start, self.NOW, self.DECAY), v)
        assert relative(self.step(second_order, hessian="remaining", **many), exact) < 0.05

    def test_influence_takes_each_mini_batch_with_its_own_replacements_at_the_weights_before(self) -> None:
        at = self.start
        for begin in (0, 250, 500):
            index = slice(begin, begin + 250)
            matrix = hessian(at, self.RETAIN, 0.0)
            v = self.difference(at, index)
            u = v
            for _ in range(30):
                u = v + 0.98 * u - matrix @ u / 3
            at = at + u / 3 / 1400
        settings: dict[str, Any] = {"damping": 0.02, "scale": 3.0, "depth": 30, "max_norm": None, "batch_forget": 250}
        assert relative(self.step(influence_lissa, **settings), at - self.start) < 1e-9


class TestTrainingOnReplacements:
    """What trains on anew sees the floats and their labels where their samples stood, and nothing of these."""

    DATA = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))
    INDICES = torch.tensor([30, 2, 17, 9])
    STAYS = torch.ones(40, dtype=torch.bool).index_fill(0, INDICES, False).nonzero().flatten()
    PUT = Samples(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(6)), torch.tensor([3, 3, 0, 2]))
    RECIPE = Recipe(epochs=2, batch_size=4, lr=0.02)

    def served(self, method: Any, base: tuple[models.Network, Any], **settings: Any) -> models.Network:
        at = Step(3, self.RECIPE, indices=self.INDICES, replacement=self.PUT, kept=base[1])
        return method.unlearn(
            base[0], part(self.DATA, self.INDICES), part(self.DATA, self.STAYS), at, **settings
        ).network

    def now(self) -> Samples:
        images, labels = self.DATA.images / 255, self.DATA.labels.clone()
        for place_of, image, label in zip(self.INDICES.tolist(), *self.PUT, strict=True):
            assert label != labels[place_of]
            images[place_of], labels[place_of] = image, label
        return Samples(images, labels)

    def test_sisa(self) -> None:
        base = sisa.train_base(tiny_model(), self.DATA, Base(5, self.RECIPE), shards=2)
        found = self.served(sisa, base)
        for k, member in enumerate(found.net.members):
            wanted = models.fresh(tiny_model(), stable_seed(3, k, "initial"))
            index = (base[1]["assignment/shard"] == k).nonzero().flatten()
            assert bool(torch.isin(index, self.INDICES).any())
            fit(wanted, part(self.now(), index), self.RECIPE, seed=stable_seed(3, k, 0))
            assert torch.equal(weights(member), weights(wanted.net))

    def test_amnesiac(self) -> None:
        base = amnesiac.train_base(tiny_model(), self.DATA, Base(5, self.RECIPE, requests=[self.INDICES]))
        wanted = self.served(amnesiac, base, epochs=0)
        fit(wanted, self.now(), Recipe(epochs=2, batch_size=4, lr=0.05), seed=3)
        assert torch.equal(weights(self.served(amnesiac, base, epochs=2, lr=0.05)), weights(wanted))


class TestInverse:
    """Second order with its defaults: what it says is inverted is inverted, and what is not is said."""

    @pytest.fixture
    def model(self) -> models.Network:
        data = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))
        return fit(tiny_model().double(), data, Recipe(epochs=2, batch_size=8, lr=0.05), seed=0)

    def matrix(self, model: models.Network, data: Samples) -> torch.Tensor:
        """The whole Hessian of the mean loss (P, P), row by row."""
        rows = torch.eye(len(weights(model)), dtype=torch.float64)
        return torch.stack([hessian_product(model, data, row) for row in rows])

    def test_a_network_is_inverted_whose_hessian_has_negative_eigenvalues(
        self, model: models.Network, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))
        matrix = self.matrix(model, data)
        ends = torch.linalg.eigvalsh(matrix)
        assert ends[0] < -1e-3 * ends[-1], "a thousandth of the largest eigenvalue alone would not do"
        v = gradient(model, FORGET) / 40
        with caplog.at_level(logging.INFO):
            after = served(second_order, model, FORGET, RETAIN, weight_decay=0.0)
        assert "the residual is" in caplog.text and "WARNING" not in caplog.text
        step = weights(after) - weights(model)
        rest = v - matrix @ step
        damped = float(rest @ step / (step @ step))
        assert relative(matrix @ step + damped * step, v) < 1e-3
        assert damped == pytest.approx(-2 * float(ends[0]), rel=0.05)
        # The public code's values for large sets leave nearly the gradient here.
        released = {"solver": "lissa", "damping": 1e-4, "scale": 200.0, "depth": None, "weight_decay": 0.0}
        little = weights(served(second_order, model, FORGET, RETAIN, **released)) - weights(model)
        assert little.norm() < 0.5 * step.norm()

    def test_the_head_alone_has_its_own_block(self, model: models.Network) -> None:
        data = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))
        head = CLASSES * 8 + CLASSES
        block = self.matrix(model, data)[-head:, -head:]
        damped = 1e-3 * torch.linalg.eigvalsh(block)[-1] * torch.eye(head)
        wanted = torch.linalg.solve(block + damped, gradient(model, FORGET)[-head:]) / 40
        for factorised in (8192, head - 1):
            settings = {"layers": "head", "weight_decay": 0.0, "factorised": factorised, "tolerance": 1e-10}
            step = weights(served(second_order, model, FORGET, RETAIN, **settings)) - weights(model)
            assert torch.equal(step[:-head], torch.zeros_like(step[:-head]))
            assert relative(step[-head:], wanted) < 1e-4

    def test_a_solver_that_did_not_arrive_says_so(
        self, model: models.Network, caplog: pytest.LogCaptureFixture
    ) -> None:
        served(second_order, model, FORGET, RETAIN, depth=2)
        assert "WARNING" in caplog.text and "was asked for" in caplog.text


class TestUnrollingAtTheInitialisation:
    """A network with BatchNorm that really took one step of SGD on a batch."""

    BATCH = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))

    def test_is_brought_back_to_where_it_came_from(self) -> None:
        recipe = Recipe(epochs=1, batch_size=40, lr=0.05, momentum=0.0, weight_decay=0.0)
        initial = normed(2)
        model = fit(normed(2), self.BATCH, recipe, seed=0)
        buffers = [{name: value.clone() for name, value in one.named_buffers()} for one in (model, initial)]
        nothing = Samples(self.BATCH.images[:0], self.BATCH.labels[:0])
        settings: dict[str, Any] = {"lr": 0.05, "reduction": "mean", "theta_0": "initial"}
        back = served(unrolling_sgd, model, self.BATCH, nothing, initial=lambda: initial, **settings)
        taken, wanted = weights(back) - weights(model), weights(initial) - weights(model)
        assert F.cosine_similarity(taken, wanted, dim=0) > 0.9999
        assert (weights(back) - weights(initial)).norm() < 0.01 * wanted.norm()
        # With a fresh network's running statistics the gradient has nothing to do with the step.
        evaluated = gradient(initial, self.BATCH) * 0.05 / 40
        assert F.cosine_similarity(evaluated, wanted, dim=0) < 0.5
        assert (weights(model) + evaluated - weights(initial)).norm() > wanted.norm()
        for one, before in zip((back, initial), buffers, strict=True):
            assert all(torch.equal(before[name], value) for name, value in one.named_buffers())
        assert initial.training, "its mode stays too"


# How the response of each is asked for, with a network and the settings under which `unlearn` does the same.
CASES: dict[str, tuple[Any, Callable[[], models.Network], dict[str, Any]]] = {
    "first_order": (first_order, lambda: tiny_model().double(), {"tau": 0.05}),
    "first_order of the head": (first_order, lambda: tiny_model().double(), {"tau": 0.05, "layers": "head"}),
    "first_order with BatchNorm": (first_order, lambda: normed(1), {"tau": 0.05}),
    "second_order": (second_order, lambda: tiny_model().double(), {"tolerance": 1e-12, "depth": 2000}),
    "second_order of the head": (second_order, lambda: tiny_model().double(), {"layers": "head"}),
    "unrolling_sgd": (unrolling_sgd, lambda: tiny_model().double(), {"lr": 0.05}),
    "unrolling_sgd at the initialisation": (unrolling_sgd, lambda: normed(1), {"lr": 2e-3, "theta_0": "initial"}),
    "amnesiac, one batch of plain SGD": (amnesiac, lambda: tiny_model().double(), {"lr": 0.05}),
}


@pytest.mark.parametrize("name", CASES)
class TestResponse:
    FORGET, RETAIN = (Samples(pixels(some.images, torch.float64), some.labels) for some in (FORGET, RETAIN))
    TARGET = Samples(255 - FORGET.images[:3], (FORGET.labels[:3] + 1) % CLASSES)

    def given(self, name: str) -> tuple[Any, models.Network, Step, dict[str, Any]]:
        method, network, settings = CASES[name]
        model, kept = network(), None
        if method is amnesiac:
            data = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))
            at = Base(seed=3, recipe=Recipe(epochs=1, batch_size=4, lr=0.02), requests=[torch.arange(8)])
            model, kept = amnesiac.train_base(model, data, at)
        return method, model, Step(0, PLAIN, indices=torch.arange(8), kept=kept, initial=lambda: normed(2)), settings

    def changed(self, delta: torch.Tensor) -> Samples:
        """z~ = x - delta, as the paper has it."""
        return Samples(pixels(FORGET.images, torch.float64) - delta, FORGET.labels)

    def loss(self, model: models.Network) -> torch.Tensor:
        """How far the wanted class is behind on three strange images, in evaluation mode."""
        logits = model.eval()(pixels(self.TARGET.images, torch.float64))
        wanted = F.one_hot(self.TARGET.labels, CLASSES).bool()
        return (logits[~wanted].view(3, -1).max(1).values - logits[wanted]).sum()

    def test_the_gradient_of_what_unlearn_returns_is_that_of_the_map(self, name: str) -> None:
        """d Psi / d delta against central differences of the loss of the network that `unlearn` really returns."""
        method, model, at, settings = self.given(name)
        draw = torch.Generator().manual_seed(4)
        shape = self.FORGET.images.shape
        delta = 0.03 * torch.randn(shape, generator=draw, dtype=torch.float64)

        def unlearned(delta: torch.Tensor) -> models.Network:
            step = Step(0, PLAIN, indices=at.indices, kept=at.kept, initial=at.initial, replacement=self.changed(delta))
            return method.unlearn(model, self.FORGET, self.RETAIN, step, **settings).network

        found = method.response(model, self.FORGET, self.RETAIN, at, **settings)
        answered = place(deepcopy(model), found.answer(self.FORGET, self.changed(delta)))
        assert relative(weights(unlearned(delta)), weights(answered)) < 1e-13
        g = torch.cat([one.flatten() for one in torch.autograd.grad(self.loss(answered), list(answered.parameters()))])
        shown = self.changed(delta).images.requires_grad_()
        value = F.cross_entropy(found.slope(shown), self.FORGET.labels, reduction="sum")
        slopes = torch.autograd.grad(value, list(found.slope.parameters()), create_graph=True)
        dot = torch.cat([one.flatten() for one in slopes]) @ found.push(g)
        (by_map,) = torch.autograd.grad(dot, shown)
        for _ in range(3):
            along = torch.randn(shape, generator=draw, dtype=torch.float64)
            ends = [float(self.loss(unlearned(delta + sign * 1e-5 * along)).detach()) for sign in (1, -1)]
            wanted = (ends[0] - ends[1]) / 2e-5
            assert abs(wanted) > 1e-9
            assert float((by_map * along).sum()) == pytest.approx(wanted, rel=1e-4)

    def test_the_map_is_linear_and_symmetric_takes_rows_and_leaves_everything_as_it_was(self, name: str) -> None:
        method, model, at, settings = self.given(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        found = method.response(model, self.FORGET, self.RETAIN, at, **settings)
        buffers = [value.clone() for value in found.slope.buffers()]
        found.slope(pixels(self.RETAIN.images, torch.float64))
        rows = torch.randn(3, len(weights(model)), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        pushed = found.push(rows)
        assert pushed.shape == rows.shape
        assert relative(torch.stack([found.push(row) for row in rows]), pushed) < 1e-9
        assert relative(found.push(2 * rows[0] - rows[1]), 2 * pushed[0] - pushed[1]) < 1e-7
        assert float(rows[0] @ pushed[1]) == pytest.approx(float(pushed[0] @ rows[1]), rel=1e-6)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(*both) for both in zip(buffers, found.slope.buffers(), strict=True))
