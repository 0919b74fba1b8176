"""Medoids against every subset, the greedy choice against its plain form, inner products against whole gradients."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from test_unlearners import samples, tiny_model

from palimpsest import curvature, medoids, models
from palimpsest.curvature import flat
from palimpsest.data import Samples, pixels


def points(count: int, seed: int = 0, size: int = 3) -> torch.Tensor:
    """Distances (N, N) of points of which few lie far out, as gradients do."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** 4
    drawn = lengths * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return torch.cdist(drawn, drawn)


def planted(clusters: int, each: int) -> tuple[torch.Tensor, set[int]]:
    """Distances of points on small crosses that lie far from each other, and the centres of the crosses."""
    arms = torch.tensor([[0.0, 0.0], *[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]][: each - 1]])
    where = torch.arange(clusters, dtype=torch.float64)[:, None, None] * torch.tensor([100.0, 30.0])
    order = torch.randperm(clusters * each, generator=torch.Generator().manual_seed(1))
    drawn = (where + arms).reshape(-1, 2)[order]
    return torch.cdist(drawn, drawn), {int((order == each * number).nonzero()) for number in range(clusters)}


def cost(distances: torch.Tensor, chosen: list[int]) -> float:
    return float(distances[chosen].min(0).values.sum())


def greedy(distances: torch.Tensor, count: int) -> list[int]:
    """Eq. 4 as it stands: every point is tried at every step, and the first of the best is taken."""
    chosen: list[int] = []
    for _ in range(count):
        left = [point for point in range(len(distances)) if point not in chosen]
        chosen.append(min(left, key=lambda point: cost(distances, [*chosen, point])))
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "of"), [(2, 9), (3, 12), (7, 12), (11, 12)])
def test_no_exchange_improves_the_result_and_no_subset_is_far_better(count: int, of: int, seed: int) -> None:
    distances = points(of, seed)
    found = medoids.cluster(distances, count)
    chosen = found.medoids.tolist()
    assert found.cost == pytest.approx(cost(distances, chosen))
    for gone in range(count):
        for point in {*range(of)} - {*chosen}:
            assert cost(distances, [*chosen[:gone], *chosen[gone + 1 :], point]) >= found.cost - 1e-9
    best = min(cost(distances, list(subset)) for subset in combinations(range(of), count))
    assert best - 1e-9 <= found.cost <= 1.2 * best, "BUILD and SWAP end in a good local optimum"


@pytest.mark.parametrize(("clusters", "each"), [(1, 5), (2, 3), (4, 5), (9, 5)])
def test_planted_clusters_have_their_centres_as_medoids(clusters: int, each: int) -> None:
    distances, centres = planted(clusters, each)
    found = medoids.cluster(distances, clusters)
    assert {*found.medoids.tolist()} == centres and found.cost == pytest.approx(clusters * (each - 1))
    assert found.sizes.tolist() == [each] * clusters
    own = found.medoids[found.assignment]
    assert torch.equal(distances.gather(1, own[:, None])[:, 0], distances[found.medoids].min(0).values)


@pytest.mark.parametrize("seed", range(3))
def test_exchanges_leave_a_bad_start(seed: int) -> None:
    distances, centres = planted(6, 5)
    start = torch.randperm(30, generator=torch.Generator().manual_seed(seed))[:6].numpy()
    assert {*medoids.swap(distances.numpy(), start).tolist()} == centres


@pytest.mark.parametrize("seed", range(8))
def test_exchanges_end_where_a_few_points_lie_a_million_times_as_far_out(seed: int) -> None:
    drawn = torch.randn(15, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[4:] *= 1e-16
    distances = torch.cdist(drawn, drawn)
    found = medoids.cluster(distances, 6)
    assert {*range(4)} <= {*found.medoids.tolist()} and found.cost < 1e-14


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["apart", "on a grid"])
def test_lazy_greedy_is_plain_greedy_step_by_step(kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # On a grid many points gain as much, and some coincide.
    grid = torch.randint(7, (40, 2), generator=generator).double()
    distances = points(40, seed) if kind == "apart" else (grid[:, None] - grid).abs().sum(2)
    different = len(grid.unique(dim=0)) if kind == "on a grid" else 40
    found = medoids.build(distances.numpy(), 40).tolist()
    assert found == greedy(distances, different) and (different < 40) == (kind == "on a grid")


def test_a_point_that_coincides_with_a_medoid_is_none() -> None:
    distances = torch.zeros(6, 6, dtype=torch.float64)
    distances[5, :5] = distances[:5, 5] = 3
    found = medoids.cluster(distances, 4)
    assert found.medoids.tolist() == [0, 5] and found.sizes.tolist() == [5, 1] and found.cost == 0


@pytest.mark.parametrize("count", [0, 6])
def test_refuses_more_medoids_than_points_and_none(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} medoids of 5 points"):
        medoids.cluster(points(5), count)


def test_one_medoid_and_as_many_as_points() -> None:
    distances = points(7)
    alone = medoids.cluster(distances, 1)
    assert alone.medoids.tolist() == [int(distances.sum(1).argmin())] and alone.sizes.tolist() == [7]
    every = medoids.cluster(distances, 7)
    assert every.assignment.tolist() == every.medoids.tolist() == [*range(7)] and every.cost == 0


@pytest.mark.parametrize(("count", "of"), [(5, 200), (60, 300), (240, 600)])
def test_it_is_as_good_as_the_package_that_has_fasterpam(count: int, of: int) -> None:
    oracle = pytest.importorskip("kmedoids")
    distances = points(of, size=8).numpy()
    start = medoids.build(distances, count)
    theirs = oracle.fasterpam(distances, medoids=start.astype(np.uintp), n_cpu=1)
    ours = medoids.cluster(torch.from_numpy(distances), count).cost
    assert ours == pytest.approx(theirs.loss, rel=0.005)
    assert ours <= cost(torch.from_numpy(distances), start.tolist())


class TestGram:
    """Inner products against gradients that autograd gives sample by sample."""

    ENSEMBLE = models.Spec("ensemble", 4, 1, {"members": 3, "keywords": {"width": 4, "hidden": 8}})

    def network(self, name: str) -> models.Network:
        if name == "one":
            return tiny_model().double()
        return models.create(self.ENSEMBLE, torch.tensor([0.3]), torch.tensor([0.3]), 1).double()

    def explicit(self, model: models.Network, data: Samples, of: str) -> torch.Tensor:
        """Every gradient as a row."""
        heads = {"one": ("net.8.",), "several": tuple(f"net.members.{k}.8." for k in range(3))}
        last = heads["several" if model.spec.method == "ensemble" else "one"]
        over = [one for name, one in model.named_parameters() if of == "full" or name.startswith(last)]
        rows = []
        for image, label in zip(*data, strict=True):
            logits = model.eval()(pixels(image[None], torch.float64))
            loss = torch.nn.functional.cross_entropy(logits, label[None])
            rows.append(flat(torch.autograd.grad(loss, [logits] if of == "logit" else over)))
        return torch.stack(rows)

    @pytest.mark.parametrize("of", ["last_layer", "logit", "full"])
    @pytest.mark.parametrize("network", ["one", "an ensemble"])
    def test_distances_are_those_of_gradients_written_out(self, network: str, of: str) -> None:
        model, data = self.network(network).train(), samples(23)
        rows = self.explicit(model, data, of)
        found = curvature.gram(model.train(), data, of)  # type: ignore[arg-type]
        assert found.dtype == torch.float64 and torch.allclose(found, rows @ rows.T, atol=1e-12)
        assert torch.allclose(medoids.distances_of(found), torch.cdist(rows, rows), atol=1e-6)
        assert model.training and all(parameter.requires_grad for parameter in model.parameters())

    def test_what_does_not_fit_into_memory_is_added_up_in_parts(self) -> None:
        model, data = tiny_model().double(), samples(11)
        whole = curvature.gram(model, data, "full")
        assert torch.allclose(curvature.gram(model, data, "full", memory=8 * 11 * 100), whole)

    def test_equal_gradients_lie_at_no_distance_and_near_ones_at_theirs(self) -> None:
        rows = torch.tensor(
            [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0 + 1e-5], [1e-9, 0, 0], [0, 0, 0]]
        ).double()
        found = medoids.distances_of(rows @ rows.T)
        assert found[0, 1] == 0 and found.diagonal().eq(0).all()
        noisy = (rows @ rows.T) * (1 + 1e-15 * torch.arange(25, dtype=torch.float64).view(5, 5))
        assert not torch.equal(noisy, noisy.T)
        assert torch.equal(medoids.distances_of(noisy), medoids.distances_of(noisy).T)
        assert found[0, 2].item() == pytest.approx(1e-5, rel=0.05) and found[3, 4].item() == pytest.approx(1e-9)
