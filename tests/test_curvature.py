"""Gradients and curvature against finite differences, whole matrices and exact solves, in float64."""

from __future__ import annotations

import gc

import pytest
import torch
from convex import Regression, clouds, hessian, trained
from torch.nn import functional as F

from palimpsest import curvature, models
from palimpsest.data import Samples
from palimpsest.models import Diverged

SPECS = {
    "small_cnn": models.Spec("small_cnn", 4, 1, {"width": 3, "hidden": 5}),
    "resnet with BatchNorm": models.Spec("resnet", 4, 1, {"width": 2}),
}


def network(name: str) -> models.Network:
    """A network in float64 whose BatchNorm has seen data, so that its running statistics matter."""
    model = models.create(SPECS[name], torch.tensor([0.4]), torch.tensor([0.3]), 1).double()
    with torch.no_grad():
        model.train()(some(30).images.double() / 255)
    return model.train()


def some(count: int) -> Samples:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Samples(images, torch.randint(4, (count,), generator=generator))


def direction(model: torch.nn.Module) -> torch.Tensor:
    draw = torch.randn(curvature.weights(model).shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return draw / draw.norm()


def total_loss(model: torch.nn.Module, samples: Samples) -> torch.Tensor:
    """The summed cross entropy in evaluation mode, without the package's gradients."""
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(samples.images.double() / 255), samples.labels, reduction="sum")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SPECS)
class TestAgainstFiniteDifferences:
    def test_gradient_is_the_slope_of_the_summed_loss(self, name: str) -> None:
        model, samples = network(name), some(20)
        along, epsilon = direction(model), 1e-6
        found = float(curvature.gradient(model, samples, batch_size=7) @ along)
        values = []
        for sign in (1, -1):
            moved = network(name)
            curvature.move(moved, sign * epsilon * along)
            values.append(float(total_loss(moved, samples)))
        assert found == pytest.approx((values[0] - values[1]) / (2 * epsilon), rel=1e-6)

    def test_hessian_product_is_the_change_of_the_mean_gradient(self, name: str) -> None:
        model, samples = network(name), some(20)
        along, epsilon = direction(model), 1e-6
        found = curvature.hessian_product(model, samples, along, batch_size=7)
        ends = []
        for sign in (1, -1):
            moved = network(name)
            curvature.move(moved, sign * epsilon * along)
            ends.append(curvature.gradient(moved, samples) / 20)
        assert relative(found, (ends[0] - ends[1]) / (2 * epsilon)) < 1e-6

    def test_per_sample_gradients_are_those_of_a_loop_whatever_the_memory(self, name: str) -> None:
        model, samples = network(name), some(9)
        one_at_a_time = torch.stack(
            [curvature.gradient(model, Samples(*(tensor[i : i + 1] for tensor in samples))) for i in range(9)]
        )
        for memory in (1, 4 * curvature.weights(model).numel() * 8 * 3, 2**29):
            blocks = list(curvature.per_sample_gradients(model, samples, memory=memory))
            assert relative(torch.cat(blocks), one_at_a_time) < 1e-12
        assert len(blocks) == 1

    def test_slopes_are_each_samples_gradient_along_a_direction(self, name: str) -> None:
        model, samples = network(name), some(9)
        along = direction(model)
        wanted = torch.cat(list(curvature.per_sample_gradients(model, samples))) @ along
        assert relative(curvature.slopes(model, samples, along, batch_size=4), wanted) < 1e-12

    def test_conjugate_gradients_solve_the_damped_system_of_the_fisher_matrix(self, name: str) -> None:
        model, samples = network(name), some(9)
        vector = curvature.gradient(model, samples)

        def product(u: torch.Tensor) -> torch.Tensor:
            return curvature.fisher_product(model, samples, u, labels="model")

        found = curvature.conjugate_gradients(product, vector, damping=0.1, steps=200, tolerance=1e-10)
        assert relative(product(found) + 0.1 * found, vector) < 1e-9

    def test_modes_and_running_statistics_stay_as_they_were(self, name: str) -> None:
        model = network(name)
        next(model.children()).eval()  # a mixture, as a frozen BatchNorm makes one
        before = {key: value.clone() for key, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        along = direction(model)
        curvature.gradient(model, some(9))
        list(curvature.per_sample_gradients(model, some(9)))
        curvature.hessian_product(model, some(9), along)
        curvature.fisher_product(model, some(9), along)
        curvature.slopes(model, some(9), along)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_curvature_matrices_are_those_of_a_whole_hessian_and_of_outer_products() -> None:
    samples = clouds(200)
    model = trained(samples, 0.05)
    eye = torch.eye(21, dtype=torch.float64)
    whole = hessian(curvature.weights(model), samples, 0.0)
    found = torch.stack([curvature.hessian_product(model, samples, row, batch_size=64) for row in eye])
    assert relative(found, whole) < 1e-12
    # For softmax regression the Hessian is the true Fisher matrix; the empirical one differs.
    true = torch.stack([curvature.fisher_product(model, samples, row, labels="model", batch_size=64) for row in eye])
    assert relative(true, whole) < 1e-12
    gradients = torch.cat(list(curvature.per_sample_gradients(model, samples)))
    outer = gradients.T @ gradients / 200
    empirical = torch.stack([curvature.fisher_product(model, samples, row, batch_size=64) for row in eye])
    assert relative(empirical, outer) < 1e-12
    assert relative(curvature.fisher_diagonal(model, samples, memory=20_000), outer.diagonal()) < 1e-12
    assert relative(empirical, whole) > 0.05


@pytest.mark.parametrize("name", SPECS)
def test_the_hessian_of_the_last_layer_is_that_of_its_products_and_its_ends_are_found(name: str) -> None:
    model, samples = network(name), some(20)
    moves = curvature.moving(model, "head")
    head = next(module for module in reversed(list(model.modules())) if isinstance(module, torch.nn.Linear))
    assert torch.equal(curvature.weights(model)[moves], curvature.flat([head.weight, head.bias]))
    eye = torch.eye(len(moves), dtype=torch.float64)[moves]
    products = torch.stack([curvature.hessian_product(model, samples, row)[moves] for row in eye])
    found = curvature.head_hessian(model, samples, batch_size=7)
    assert relative(found, products) < 1e-12
    ends = curvature.extremes(
        lambda u: curvature.hessian_product(model, samples, u) * moves, moves.double(), steps=len(found), seed=0
    )
    assert ends == pytest.approx([0.0, float(torch.linalg.eigvalsh(found)[-1])], rel=1e-6, abs=1e-6)


def test_the_ends_of_an_indefinite_matrix_are_found() -> None:
    values = torch.linspace(-0.3, 5.0, 60, dtype=torch.float64)
    low, high = curvature.extremes(lambda u: values * u, torch.ones_like(values), steps=40, seed=0)
    assert (low, high) == pytest.approx((-0.3, 5.0), rel=1e-3)
    with pytest.raises(Diverged, match="not finite"):
        curvature.extremes(lambda u: u * torch.nan, values, steps=3, seed=0)


def test_heads_are_the_last_dense_layers_and_an_ensembles_are_no_layer_whose_hessian_is_known() -> None:
    one = models.Spec("ensemble", 4, 1, {"method": "small_cnn", "members": 2, "keywords": {"width": 3, "hidden": 5}})
    model = models.create(one, torch.tensor([0.4]), torch.tensor([0.3]), 1)
    assert [head.out_features for head in curvature.heads(model)] == [4, 4]
    assert int(curvature.moving(model, "head").sum()) == 2 * (5 * 4 + 4)
    assert bool(curvature.moving(model, "all").all())
    alone = models.create(models.Spec("ensemble", 4, 1, {**one.keywords, "members": 1}), *(torch.ones(2, 1)), 1)
    with pytest.raises(ValueError, match="outputs are not the network's"):
        curvature.head_hessian(alone, some(9))
    with pytest.raises(ValueError, match="no dense layer"):
        curvature.heads(torch.nn.Conv2d(1, 4, 3))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 512])
def test_no_batch_is_larger_than_asked_and_none_is_a_single_sample_of_several(count: int) -> None:
    samples = some(count)
    parts = list(curvature.batches(samples, 7))
    assert torch.equal(torch.cat([part.images for part in parts]), samples.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), samples.labels)
    assert all(min(count, 2) <= len(part.labels) <= 7 for part in parts)


def test_conjugate_gradients_say_where_a_matrix_is_indefinite() -> None:
    values = torch.tensor([1.0, -1.0], dtype=torch.float64)
    with pytest.raises(Diverged, match="negative"):
        curvature.conjugate_gradients(lambda u: values * u, values, damping=0.5, steps=9, tolerance=0.0)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_lissa_with_all_samples_solves_the_damped_system(damping: float) -> None:
    samples, decay = clouds(500), 0.05
    model = trained(samples, decay)
    vector = curvature.gradient(model, Samples(*(tensor[:20] for tensor in samples)))

    def product(u: torch.Tensor, step: int) -> torch.Tensor:
        return curvature.hessian_product(model, samples, u) + decay * u

    found = curvature.lissa(product, vector, damping=damping, scale=1.5, depth=600)
    matrix = hessian(curvature.weights(model), samples, decay) + damping * 1.5 * torch.eye(21)
    assert relative(found, torch.linalg.solve(matrix, vector)) < 1e-6
    # and the proof can fail: the same steps without enough of them
    assert relative(curvature.lissa(product, vector, damping=damping, scale=3.0, depth=20), found) > 0.01


def test_lissa_with_drawn_batches_comes_within_a_percent() -> None:
    samples, decay = clouds(2000), 0.2
    model = trained(samples, decay)
    vector = curvature.gradient(model, Samples(*(tensor[:50] for tensor in samples)))
    generator = torch.Generator().manual_seed(1)

    def product(u: torch.Tensor, step: int) -> torch.Tensor:
        draw = torch.randint(2000, (500,), generator=generator)
        return curvature.hessian_product(model, Samples(*(t[draw] for t in samples)), u) + decay * u

    found = curvature.lissa(product, vector, damping=0.0, scale=30.0, depth=1000)
    exact = torch.linalg.solve(hessian(curvature.weights(model), samples, decay), vector)
    assert relative(found, exact) < 0.01


def test_lissa_stops_when_its_change_no_longer_shrinks_and_says_when_it_diverges() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    vector = torch.ones(2, dtype=torch.float64)
    steps: list[int] = []

    def noisy(u: torch.Tensor, step: int) -> torch.Tensor:
        steps.append(step)
        return matrix @ u + (-1) ** step * 0.1

    curvature.lissa(noisy, vector, damping=0.0, scale=4.0, depth=1000, patience=20)
    assert 20 < len(steps) < 200
    with pytest.raises(Diverged, match="larger scale"):
        curvature.lissa(lambda u, step: matrix @ u, vector, damping=0.0, scale=0.1, depth=1000)


def test_conjugate_gradients_end_in_as_many_steps_as_a_matrix_has_eigenvalues_or_earlier() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 2.0, 7.0, 0.0], dtype=torch.float64))
    vector = torch.ones(5, dtype=torch.float64)
    taken: list[int] = []

    def product(u: torch.Tensor) -> torch.Tensor:
        taken.append(1)
        return matrix @ u

    def solved(steps: int, tolerance: float) -> torch.Tensor:
        taken.clear()
        return curvature.conjugate_gradients(product, vector, damping=0.5, steps=steps, tolerance=tolerance)

    exact = 1 / (matrix.diagonal() + 0.5)
    assert relative(solved(99, 1e-8), exact) < 1e-8 and len(taken) == 4
    rough = solved(99, 0.5)
    assert len(taken) < 4 and relative((matrix.diagonal() + 0.5) * rough, vector) <= 0.5
    assert torch.equal(rough, solved(len(taken), 0.0)), "the same steps, counted"
    with pytest.raises(Diverged, match="more damping"):
        curvature.conjugate_gradients(lambda u: u * torch.nan, vector, damping=0.5, steps=3, tolerance=0.1)


def test_lissa_converges_exactly_where_the_docstring_says() -> None:
    """Eigenvalues in (-damping * scale, (2 - damping) * scale): just inside converges, just outside does not."""
    scale, damping = 10.0, 0.1
    vector = torch.ones(1, dtype=torch.float64)
    for eigenvalue, inside in ((-0.97, True), (-1.03, False), (18.97, True), (19.03, False)):
        found = curvature.lissa(
            lambda u, step, eigenvalue=eigenvalue: eigenvalue * u,  # type: ignore[misc]
            vector,
            damping=damping,
            scale=scale,
            depth=5000,
        )
        exact = 1 / (eigenvalue + damping * scale)
        assert (abs(float(found) / exact - 1) < 1e-3) == inside, eigenvalue


@pytest.mark.parametrize(
    "spec",
    [models.Spec("lenet", 10, 1), models.Spec("small_cnn", 10, 1, {"width": 8, "hidden": 4})],
    ids=["more parameters than activations", "more activations than parameters"],
)
def test_micro_batches_stay_within_the_memory_they_are_given(spec: models.Spec) -> None:
    model = models.create(spec, torch.tensor([0.1]), torch.tensor([0.3]), 0)
    samples = Samples(torch.zeros(99, 1, 28, 28, dtype=torch.uint8), torch.zeros(99, dtype=torch.int64))
    memory = 2**24
    count = curvature.micro_batch(model, samples, memory)
    assert 1 < count < 99, "the bound decides, not the data"
    live = peak(lambda: next(curvature.per_sample_gradients(model, samples, memory=memory)))
    assert memory / 4 < live < memory, f"{live / memory:.0%} of the bound"


def peak(action: object) -> int:
    """The most bytes that tensors made by `action` took at once, by the allocator's own record."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()  # type: ignore[operator]
    live = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def test_a_step_that_is_not_finite_is_refused_and_the_weights_stay() -> None:
    model = Regression()
    with pytest.raises(Diverged):
        curvature.move(model, torch.full((21,), float("nan"), dtype=torch.float64))
    assert torch.equal(curvature.weights(model), torch.zeros(21, dtype=torch.float64))


def test_flat_vectors_do_not_depend_on_the_memory_format() -> None:
    plain = network("small_cnn")
    last = network("small_cnn").to(memory_format=torch.channels_last)
    assert torch.equal(curvature.weights(plain), curvature.weights(last))
    along = direction(plain)
    for model in (plain, last):
        curvature.move(model, along)
    assert torch.equal(curvature.weights(plain), curvature.weights(last))
