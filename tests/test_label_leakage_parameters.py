"""The label-leakage paper's attacks on parameters: heads, screening, trees and scores, each against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import roc_curve
from test_unlearners import samples, tiny_model
from torch import nn
from torch.nn import functional as F

from palimpsest import models
from palimpsest.attacks.on_labels import Judging, OnLabels, _heads, label_leakage
from palimpsest.attacks.on_labels import _difference as difference
from palimpsest.attacks.on_labels import _dot as dot
from palimpsest.attacks.on_labels._heads import Heads, Judged, Known
from palimpsest.data import Samples
from palimpsest.metrics import class_decisions
from palimpsest.train import Recipe, fit

CLASSES = 4  # of the images
FEATURES = 32  # with fewer, some classes share too many
DATA = samples(96)
SMALL: dict[str, Any] = {"subsets": 3, "subset_size": 12, "epochs": 3, "lr": 0.01}


@pytest.fixture(scope="module")
def server() -> models.Network:
    """A network that knows its four classes, and is not yet so sure that a head has nothing to learn."""
    spec = models.Spec("small_cnn", CLASSES, 1, {"width": 4, "hidden": FEATURES})
    model = models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), 3)
    return fit(model, DATA, Recipe(4, 16, 0.01, optimizer="adam", weight_decay=0.0), seed=1)


def erased(model: models.Network, *classes: int) -> models.Network:
    """A copy of `model` whose final layer speaks against `classes`, whatever the features."""
    copy = models.create(model.spec, model.mean, model.std, 0)
    copy.load_state_dict(model.state_dict())
    layer = _heads.final_layer(copy)
    kept = [label for label in range(CLASSES) if label not in classes]
    with torch.no_grad():
        for label in classes:
            layer.weight[label] = -layer.weight[kept].abs().amax(0)
            layer.bias[label] = -3.0
    return copy


def trained(server: nn.Module, seed: int, own: Samples | None = DATA, **keywords: Any) -> Heads:
    return Heads(*probed(server, seed, own, **keywords)[:5])


def probed(
    server: nn.Module, seed: int, own: Samples | None = DATA, forgotten: torch.Tensor | None = None, **keywords: Any
) -> label_leakage.Probed:
    at = OnLabels(server, tuple(DATA.images.shape[1:]), CLASSES, seed, own, forgotten)
    return label_leakage.attack(at, **keywords)


def found(heads: Heads, of_count: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Heads as a probe leaves them: all of the attack, and none counted one by one unless it is said which."""
    of_attack = torch.ones(len(heads.trained_on), dtype=torch.bool)
    return {**heads._asdict(), "of_attack": of_attack, "of_count": ~of_attack if of_count is None else of_count}


def truth_of(classes: Sequence[int], count: int = CLASSES) -> torch.Tensor:
    return torch.isin(torch.arange(count), torch.tensor(classes, dtype=torch.int64))


# Heads


@pytest.mark.parametrize("head_init", ["torch", "zero", "server"])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_heads_in_one_batch_are_the_heads_trained_one_by_one(
    server: models.Network, head_init: _heads.HeadInit, batch_size: int | None
) -> None:
    together = trained(server, 7, head_init=head_init, batch_size=batch_size, **SMALL)
    inputs = _heads.features(server, DATA.images)
    starts = []
    for head, label in enumerate(together.trained_on.tolist()):
        name = (7, label, head % SMALL["subsets"])
        pool = (DATA.labels == label).nonzero().flatten()
        index = pool[_heads.subset(len(pool), SMALL["subset_size"], *name)]
        alone = nn.Linear(FEATURES, CLASSES)
        with torch.no_grad():
            start = _heads.initial(_heads.final_layer(server), head_init, *name)
            alone.weight.copy_(start[0])
            alone.bias.copy_(start[1])
        starts.append(start[0])
        adam = torch.optim.Adam(alone.parameters(), lr=SMALL["lr"])
        for part in _heads.batches(index[None], [name], SMALL["epochs"], batch_size or SMALL["subset_size"]):
            adam.zero_grad()
            F.cross_entropy(alone(inputs[part[0]]), DATA.labels[part[0]]).backward()
            adam.step()
        assert torch.allclose(together.weight[head], alone.weight, atol=2e-5)
        assert torch.allclose(together.bias[head], alone.bias, atol=2e-5)
        assert (alone.weight - start[0]).abs().max() > (0 if head_init == "server" else 1e-3), "training moved it"
    fresh = all(not torch.equal(one, other) for one, other in pairwise(starts))
    assert fresh == (head_init == "torch"), "only PyTorch's initialisation is drawn for each head"


def test_a_head_is_the_same_whatever_other_heads_there_are(server: models.Network) -> None:
    many = trained(server, 7, batch_size=5, **SMALL)
    few = trained(server, 7, batch_size=5, **{**SMALL, "subsets": 1})
    assert torch.equal(few.trained_on, torch.arange(CLASSES))
    assert torch.allclose(many.weight[:: SMALL["subsets"]], few.weight, atol=1e-5)
    other = trained(server, 8, batch_size=5, **{**SMALL, "subsets": 1})
    assert not torch.allclose(other.weight, few.weight, atol=1e-2), "another seed, other heads"


def test_training_heads_draws_nothing_from_the_global_generator_and_leaves_the_server_alone(
    server: models.Network,
) -> None:
    before = {name: tensor.clone() for name, tensor in server.state_dict().items()}
    state = torch.random.get_rng_state()
    first = trained(server, 0, head_init="server", **SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in server.state_dict().items())
    again = trained(server, 0, head_init="server", **SMALL)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.server_weight, before["net.8.weight"])


def test_a_subset_has_no_image_twice_and_all_epochs_see_all_of_it() -> None:
    drawn = _heads.subset(30, 12, 0, 1, 2)
    assert len(drawn.unique()) == 12 and drawn.max() < 30
    steps = list(_heads.batches(drawn[None], [(0, 1, 2)], epochs=2, batch_size=5))
    assert [part.shape[1] for part in steps] == [5, 5, 2] * 2
    epochs = torch.cat(steps[:3], 1), torch.cat(steps[3:], 1)
    assert all(torch.equal(epoch.sort().values, drawn[None].sort().values) for epoch in epochs)
    assert not torch.equal(*epochs), "in a fresh order"


@pytest.mark.parametrize(
    ("name", "keywords", "pixels"),
    [("lenet", {}, 28), ("small_cnn", {"width": 4, "hidden": 8}, 8), ("resnet", {"width": 8}, 16)],
)
def test_the_final_layer_on_the_features_gives_the_networks_logits(
    name: str, keywords: dict[str, int], pixels: int
) -> None:
    model = models.create(models.Spec(name, 5, 1, keywords), torch.tensor([0.4]), torch.tensor([0.2]), 0).train()
    images = torch.randint(256, (7, 1, pixels, pixels), dtype=torch.uint8)
    inputs = _heads.features(model, images, batch_size=3)
    assert not model.training, "batch statistics would be the batch's"
    assert torch.allclose(_heads.final_layer(model)(inputs), model(images / 255), atol=1e-5)


def test_a_server_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    spec = models.Spec("ensemble", CLASSES, 1, {"method": "small_cnn", "members": 2, "keywords": {"width": 2}})
    ensemble = models.create(spec, torch.tensor([0.4]), torch.tensor([0.2]), 0)
    with pytest.raises(models.ModelError, match="does not give its logits"):
        trained(ensemble, 0, **SMALL)
    with pytest.raises(models.ModelError, match="no last linear layer"):
        _heads.features(nn.Flatten(), DATA.images)


def test_vectors_are_the_rows_one_after_the_other_and_then_the_biases() -> None:
    weight, bias = torch.arange(12.0).view(2, 3, 2), torch.arange(6.0).view(2, 3) + 100
    heads = Heads(weight, bias, torch.tensor([0, 2]), weight[0] + 0.5, bias[0] + 0.5)
    ours, other = heads.vectors()
    assert ours.tolist() == [[0, 1, 2, 3, 4, 5, 100, 101, 102], [6, 7, 8, 9, 10, 11, 103, 104, 105]]
    assert other.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 100.5, 101.5, 102.5]
    assert heads.vectors("weight")[0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    # The head of class 2 moves its row, here the last, to the front.
    first = difference.differences(heads, arrange="own_class_first")
    assert first.tolist() == [[-0.5] * 9, [5.5, 5.5, 5.5, 5.5, 5.5, 5.5, 2.5, 2.5, 2.5]]
    turned = Heads(weight, bias, torch.tensor([0, 2]), torch.zeros(3, 2), torch.zeros(3))
    assert difference.differences(turned, arrange="own_class_first")[1].tolist() == [10, 11, 6, 7, 8, 9, 105, 103, 104]
    turned = turned._replace(weight=weight.flip(2))
    assert difference.differences(turned, arrange="sorted")[1].tolist() == [10, 11, 6, 7, 8, 9, 105, 103, 104]


# Screening


def some_values(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping values with ties, and which of them are of forgotten classes."""
    rng = np.random.default_rng(seed)
    forgotten = rng.random(60) < 0.3
    forgotten[:2] = True, False
    return torch.tensor(np.round(rng.normal(size=60) - 1.0 * forgotten, 1)), torch.tensor(forgotten)


@pytest.mark.parametrize("seed", range(8))
def test_youdens_threshold_is_where_scikit_learns_curve_and_a_naive_search_have_it(seed: int) -> None:
    values, forgotten = some_values(seed)
    threshold = dot.youden_threshold(values, forgotten)
    false_rate, true_rate, cuts = roc_curve(forgotten, -values, drop_intermediate=False)
    best = (true_rate - false_rate).argmax()
    assert torch.equal(values < threshold, -values >= cuts[best])

    def index(cut: float) -> float:
        called = [value < cut for value in values.tolist()]
        share = [
            [yes for yes, gone in zip(called, forgotten.tolist(), strict=True) if gone == want]
            for want in (True, False)
        ]
        return sum(share[0]) / len(share[0]) - sum(share[1]) / len(share[1])

    assert index(threshold) == pytest.approx(max(index(value + 0.05) for value in values.tolist()))


def test_youdens_threshold_calls_nothing_forgotten_where_products_are_larger_there() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert dot.youden_threshold(values, torch.tensor([False, False, True, True])) == float("-inf")
    assert dot.youden_threshold(values, torch.tensor([True, True, False, False])) == 2.5
    # Both cuts have an index of 1/2: the one that says less is taken.
    assert dot.youden_threshold(values, torch.tensor([True, False, True, False])) == 1.5


@pytest.mark.parametrize("seed", range(6))
def test_kmeans_cuts_where_scikit_learn_and_the_search_over_all_partitions_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(1e3, 1, 9), rng.normal(1e3 + rng.uniform(1, 6), 1, 5)])
    threshold = dot.kmeans_threshold(torch.tensor(values))
    ours = values < threshold

    def squares(left: np.ndarray) -> float:
        return sum(((values[side] - values[side].mean()) ** 2).sum() for side in (left, ~left))

    cuts = [values <= value for value in np.sort(values)[:-1]]
    assert squares(ours) == pytest.approx(min(map(squares, cuts)))
    machine = KMeans(2, n_init=30, random_state=0).fit(values[:, None])
    assert np.array_equal(ours, machine.labels_ == machine.cluster_centers_[:, 0].argmin())
    assert threshold == pytest.approx(machine.cluster_centers_.mean())


def test_kmeans_finds_nobody_among_equals() -> None:
    assert dot.kmeans_threshold(torch.ones(5)) == float("-inf")


# Planted cases


def attacked(model: models.Network, seed: int) -> Heads:
    return trained(model, seed, subsets=8, subset_size=16, head_init="zero")


@pytest.fixture(scope="module")
def planted(server: models.Network) -> dict[int, Known]:
    """A server for each class, which lost that class."""
    return {label: Known(attacked(erased(server, label), 10 + label), truth_of([label])) for label in range(CLASSES)}


PLANTED = {
    "Youden, shadows": partial(dot.attack),
    "Youden, oracle": partial(dot.attack, protocol="oracle_threshold"),
    "k-means": partial(dot.attack, screening="kmeans"),
    "Youden, weights": partial(dot.attack, vector="weight"),
    "Youden, standardised": partial(dot.attack, standardise=True),
    "tree, shadows": partial(difference.attack, seed=0, arrange="own_class_first"),
    "tree, shadows, sorted": partial(difference.attack, seed=0, arrange="sorted"),
    "tree, split": partial(difference.attack, seed=0, protocol="oracle_split"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_class_whose_row_was_erased_is_found(name: str, planted: dict[int, Known]) -> None:
    for target in planted.values():
        shadows = _heads.leave_class_out(planted.values(), target.forgotten)
        assert len(shadows) == CLASSES - 1
        judged: Judged = PLANTED[name](target.heads, shadows, target.forgotten)
        assert torch.equal(judged.decisions, target.forgotten), (judged.scores, judged.threshold)
        assert judged.scores.shape == (CLASSES,) and judged.values.shape == judged.head_decisions.shape == (32,)
        assert judged.scores.dtype == judged.values.dtype == torch.float64


@pytest.mark.parametrize("target", range(CLASSES))
def test_what_the_tables_show_finds_the_erased_class_but_for_the_tree_whose_shadows_the_truth_chose(
    target: int, planted: dict[int, Known]
) -> None:
    shadows = [(found(known.heads), known.forgotten) for known in planted.values()]
    one = planted[target]
    judgement = label_leakage.judge(found(one.heads), Judging(0, one.forgotten, shadows, shadows[::-1]))
    judged = dict(judgement.decisions)
    blind = judged.pop("tree_left_out")
    assert not blind[target], "it recognises a head's class, and no shadow ever forgot this one"
    youdens = {f"youden{ending}" for ending in ("", "_own", "_left_out", "_standardised", "_oracle")}
    assert set(judged) == {*youdens, "kmeans", "tree", "tree_own", "tree_sorted", "tree_oracle"}
    assert all(torch.equal(decisions, one.forgotten) for decisions in judged.values()), judged
    fewer = {"kmeans": 0, "tree_left_out": CLASSES - 1, "youden_left_out": CLASSES - 1}
    names = {"tree_left_out", *judged} - {"youden_oracle", "tree_oracle"}
    assert judgement.shadows == {name: fewer.get(name, CLASSES) for name in names}


def test_the_truth_has_no_part_in_a_decision_but_for_the_bounds() -> None:
    """Where the truth chose the shadows, what it left out was never called forgotten, whatever the server had done."""
    heads = found(theory([3], 0))
    shadows = [(found(theory([label], 10 + label)), truth_of([label], TEN)) for label in range(TEN)]
    truths = [truth_of(classes, TEN) for classes in ([3], [0, 1], [5], [])]
    told = [label_leakage.judge(heads, Judging(0, truth, shadows, shadows[5:])).decisions for truth in truths]
    attacks = {name for name in told[0] if not name.endswith(("_left_out", "_oracle"))}
    assert attacks == {"youden", "youden_own", "youden_standardised", "kmeans", "tree", "tree_own", "tree_sorted"}
    assert all(torch.equal(told[0][name], other[name]) for name in attacks for other in told[1:])
    assert told[0]["tree"][3] and not told[0]["tree_left_out"][3], "the old choice is wrong by construction"
    without = label_leakage.judge(heads, Judging(0, truths[0], shadows), bounds=False).decisions
    assert set(without) == attacks - {"youden_own", "tree_own"}, "without shadows of its own unlearner"


def test_a_shadow_servers_heads_are_the_first_of_each_class() -> None:
    heads = theory([3], 0)
    some = heads.only(torch.arange(len(heads.trained_on)).flip(0)).first(2)
    assert torch.equal(torch.bincount(some.trained_on), torch.full((TEN,), 2))
    assert torch.equal(some.weight[0], heads.weight[-1]) and torch.equal(some.weight[1], heads.weight[-2])
    shadows = [(found(theory([label], 10 + label)), truth_of([label], TEN)) for label in range(TEN)]
    told = label_leakage.judge(found(heads), Judging(0, truth_of([3], TEN), shadows), shadow_heads=1)
    fewer = [Known(Heads(*(of[name] for name in Heads._fields)).first(1), truth) for of, truth in shadows]
    assert torch.equal(told.decisions["youden"], dot.attack(heads, fewer).decisions)


# Heads counted one by one


@pytest.mark.parametrize("forgotten", [[1], [0, 2, 3]])
def test_as_many_heads_of_forgotten_as_of_kept_classes_are_counted_and_the_attack_sees_none_of_it(
    server: models.Network, forgotten: list[int]
) -> None:
    truth, small = truth_of(forgotten), {**SMALL, "per_side": 10}
    told, blind = (probed(server, 7, forgotten=known, **small) for known in (truth, None))
    gone = truth[told.trained_on]
    assert (gone & told.of_count).sum() == (~gone & told.of_count).sum() == 10
    each = torch.bincount(told.trained_on[told.of_count], minlength=CLASSES)
    assert all(each[truth == side].max() - each[truth == side].min() <= 1 for side in (True, False))
    assert not blind.of_count.any() and blind.of_attack.all()
    for name in Heads._fields[:3]:
        mine, other = getattr(told, name)[told.of_attack], getattr(blind, name)
        assert torch.allclose(mine, other, atol=1e-5), "the attack's heads are those of an attacker who knows nothing"


def test_a_server_that_forgot_all_or_nothing_has_no_heads_to_count() -> None:
    assert label_leakage.counts(truth_of([]), 10) == label_leakage.counts(truth_of(range(CLASSES)), 10) == {}
    assert label_leakage.counts(truth_of([2]), 10) == {2: 10, 0: 4, 1: 3, 3: 3}


def test_per_head_and_per_class_are_two_numbers_and_a_tree_per_head_needs_no_forgetting() -> None:
    """Counted by class k-means has ten points less than by head, so a printed number of heads is no number of classes.

    And a tree on a split names as many heads of a server that forgot nothing, where Youden's cut is near chance.
    """
    mean: dict[str, float] = {}
    trials, truth = 4, truth_of([3], TEN)
    for forget in (True, False):
        for seed in range(trials):
            many = theory([3] if forget else [], seed, subsets=36, noise=0.5)
            chosen = many.trained_on == 3
            chosen[[36 * label + number for label in range(TEN) if label != 3 for number in range(4)]] = True
            judgement = label_leakage.judge(found(many, chosen), Judging(seed, truth))
            assert {name: len(gone) for name, (_, gone) in judgement.heads.items()} == {
                "youden": 72, "kmeans": 72, "tree": 14
            }  # fmt: skip
            rates = {name: called == gone for name, (called, gone) in judgement.heads.items()}
            rates["class"] = judgement.decisions["kmeans"] == truth
            for name, right in rates.items():
                key = f"{name} {'forgot' if forget else 'nothing'}"
                mean[key] = mean.get(key, 0) + float(right.double().mean()) * 100 / trials
    assert mean["kmeans forgot"] > 90 and mean["class forgot"] < 85, mean
    assert mean["youden forgot"] > 90 and mean["youden nothing"] < 60, mean
    assert mean["tree forgot"] > 90 and abs(mean["tree forgot"] - mean["tree nothing"]) < 3, mean


def test_several_erased_classes_are_found(server: models.Network, planted: dict[int, Known]) -> None:
    heads = attacked(erased(server, 0, 2), 20)
    for name in ("Youden, shadows", "k-means", "tree, split"):
        judged = PLANTED[name](heads, [planted[1], planted[3]], truth_of([0, 2]))
        assert torch.equal(judged.decisions, truth_of([0, 2])), name


def test_of_a_server_that_forgot_nothing_no_class_is_named(server: models.Network, planted: dict[int, Known]) -> None:
    heads = attacked(server, 21)
    for name in ("Youden, shadows", "tree, shadows"):
        assert not PLANTED[name](heads, list(planted.values())).decisions.any(), name
    assert PLANTED["k-means"](heads).decisions.any(), "k-means has no way of saying nobody"


def test_values_are_what_the_figures_draw(planted: dict[int, Known]) -> None:
    heads = planted[0].heads
    products, distances = dot.attack(heads, screening="kmeans").values, PLANTED["tree, split"](heads, (), truth_of([0]))
    for head in (0, 9, 31):
        both = torch.cat([heads.weight[head].flatten(), heads.bias[head]])
        server = torch.cat([heads.server_weight.flatten(), heads.server_bias])
        assert products[head] == pytest.approx(float(both @ server), rel=1e-5)
        assert distances.values[head] == pytest.approx(float((both - server).abs().sum()), rel=1e-5)


# Chance

TEN = 10


def theory(forgotten: Sequence[int], seed: int, subsets: int = 4, noise: float = 0.15) -> Heads:
    """Heads as eq. 10-17 have them: a server's row is its class's mean feature, unless it forgot it; with noise.

    The means have other lengths for other classes, and all servers share them: a class can be recognised.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(TEN, 20, generator=torch.Generator().manual_seed(0)) * 2  # as behind a ReLU
    means *= torch.linspace(0.8, 1.2, TEN)[:, None]
    known = means * ~truth_of(forgotten, TEN)[:, None] + 0.3 * torch.randn(TEN, 20, generator=generator)
    trained_on = torch.arange(TEN).repeat_interleave(subsets)
    weight = torch.zeros(len(trained_on), TEN, 20)
    weight[torch.arange(len(trained_on)), trained_on] = means[trained_on]
    weight += noise * torch.randn(weight.shape, generator=generator)
    return Heads(weight, torch.zeros(len(trained_on), TEN), trained_on, known, torch.zeros(TEN))


def scores_over_trials(name: str, *, forget: bool, trials: int = 40) -> torch.Tensor:
    """Balanced accuracy (trials,) on targets and shadows that forgot a random class, or only are said to have."""
    made = torch.randint(TEN, (trials, 5), generator=torch.Generator().manual_seed(1)).tolist()
    found = []
    for trial, (target, *others) in enumerate(made):
        known = [
            Known(theory([label] if forget else [], 1000 * trial + number), truth_of([label], TEN))
            for number, label in enumerate(others, 1)
        ]
        said = truth_of([target], TEN)
        decisions = PLANTED[name](theory([target] if forget else [], 1000 * trial), known, said).decisions
        found.append(class_decisions.scores(decisions, said)["balanced_accuracy"])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", ["Youden, shadows", "Youden, standardised", "k-means", "tree, shadows"])
def test_without_forgetting_an_attack_that_does_not_see_the_truth_is_at_chance(name: str) -> None:
    control, target = scores_over_trials(name, forget=False), scores_over_trials(name, forget=True)
    error = control.std() / len(control) ** 0.5
    assert abs(control.mean() - 50) < 3 * error + 1e-9, f"{control.mean():.1f} +- {error:.1f}"
    gained = (target - control).mean() / ((target - control).std() / len(target) ** 0.5)
    assert target.mean() > 70 and gained > 5, f"{target.mean():.1f}: and far above it where something was forgotten"


@pytest.mark.parametrize("name", ["Youden, oracle", "tree, split"])
def test_without_forgetting_an_attack_that_sees_the_truth_is_above_chance_which_is_why_there_is_a_control(
    name: str,
) -> None:
    control = scores_over_trials(name, forget=False)
    error = control.std() / len(control) ** 0.5
    assert control.mean() - 50 > 3 * error, f"{control.mean():.1f} +- {error:.1f}"


@pytest.mark.parametrize("name", ["Youden, shadows", "k-means", "tree, shadows"])
def test_the_targets_truth_is_read_by_the_oracles_alone(name: str) -> None:
    heads, shadows = theory([3], 0), [Known(theory([5], 1), truth_of([5], TEN))]
    told = [PLANTED[name](heads, shadows, truth) for truth in (truth_of([3], TEN), ~truth_of([3], TEN), None)]
    assert all(torch.equal(judged.scores, told[0].scores) for judged in told)
    assert len({judged.threshold for judged in told}) == 1


def test_a_split_tree_is_tested_on_heads_that_it_did_not_see() -> None:
    trained_on = torch.arange(TEN).repeat_interleave(5)
    tested = difference.split(trained_on, 0.4, seed=0)
    assert torch.equal(torch.bincount(trained_on[tested], minlength=TEN), torch.full((TEN,), 2))
    assert not torch.equal(tested, difference.split(trained_on, 0.4, seed=1))
    # The tested heads of class 0 are copies of heads of class 1 to train on: a tree that saw neither label of theirs
    # must call them retained, and the other heads of class 0 forgotten.
    heads = theory([], 0, subsets=5)
    weight = heads.weight.clone()
    weight[(trained_on == 0) & tested] = weight[(trained_on == 1) & ~tested][:2]
    judged = difference.attack(
        heads._replace(weight=weight), (), truth_of([0], TEN), seed=0, protocol="oracle_split", test_share=0.4
    )
    assert judged.scores[0] == judged.head_decisions[(trained_on == 0) & tested].double().mean()
    assert not judged.decisions[0] and judged.head_decisions[(trained_on == 0) & ~tested].all()


# Errors


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"head_init": "random"}, "head_init cannot be 'random'; it takes torch, zero, server"),
        ({"subset_size": 25}, "class 0 has 24 images, subset_size asks for 25"),
        ({"subset_size": 0}, r"label_leakage: subset_size cannot be 0; it takes a whole number in \[1, inf\)"),
        ({"batch_size": 0}, r"batch_size cannot be 0; it takes a whole number in \[1, inf\) or none"),
        ({"lr": 0.0}, r"lr cannot be 0.0; it takes a number in \(0, inf\)"),
    ],
)
def test_heads_refuse_what_they_cannot_do(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trained(tiny_model(), 0, **{**SMALL, **keywords})


def test_heads_refuse_to_be_trained_on_nothing() -> None:
    with pytest.raises(ValueError, match="on samples of the attacker's, and there are none"):
        trained(tiny_model(), 0, None, **SMALL)


@pytest.mark.parametrize(("layer", "value"), [(0, float("nan")), (-1, float("nan")), (-1, float("inf")), (0, 3e38)])
def test_a_server_that_is_not_finite_has_diverged(layer: int, value: float) -> None:
    server = tiny_model()
    with torch.no_grad():
        server.net[layer].weight.fill_(value)
    with pytest.raises(models.Diverged, match="the server's outputs are not finite"):
        trained(server, 0, **SMALL)


def test_heads_that_leave_the_numbers_have_diverged() -> None:
    with pytest.raises(models.Diverged, match="the heads are not finite"):
        trained(tiny_model(), 0, **{**SMALL, "lr": 1e38, "epochs": 10})


def test_heads_refuse_labels_that_the_server_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        trained(tiny_model(), 0, Samples(DATA.images, DATA.labels + 1), **SMALL)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (partial(dot.attack, screening="median"), "screening cannot be 'median'; it takes youden, kmeans"),
        (partial(dot.attack, protocol="oracle"), "protocol cannot be 'oracle'; it takes shadow, oracle_threshold"),
        (partial(dot.attack, screening="kmeans", vector="bias"), "vector cannot be 'bias'; it takes weight_and_bias"),
        (partial(dot.attack), "learnt on shadow servers, and there are none"),
        (partial(dot.attack, protocol="oracle_threshold"), "needs the truth"),
        (partial(dot.attack, truth=truth_of([], TEN), protocol="oracle_threshold"), "forgotten and of retained"),
        (partial(dot.attack, truth=truth_of([0]), protocol="oracle_threshold"), "is no table of the server's 10"),
        (partial(difference.attack, seed=0, protocol="oracle"), "it takes shadow, oracle_split"),
        (partial(difference.attack, seed=0, arrange="rows"), "it takes as_is, own_class_first, sorted"),
        (partial(difference.attack, seed=0, vector="bias"), "it takes weight_and_bias, weight"),
        (partial(difference.attack, seed=0), "trained on shadow servers, and there are none"),
        (partial(difference.attack, seed=0, protocol="oracle_split"), "needs the truth"),
        (partial(difference.attack, truth=truth_of([], TEN), seed=0, protocol="oracle_split"), "of forgotten and of"),
        (
            partial(difference.attack, truth=truth_of([0], TEN), seed=0, protocol="oracle_split", test_share=0.1),
            "test_share 0.1 leaves class 0, which has 4 heads",
        ),
        (
            partial(difference.attack, truth=truth_of([0], TEN), seed=0, protocol="oracle_split", max_depth=0),
            "max_depth",
        ),
        (
            partial(difference.attack, truth=truth_of([0], TEN), seed=0, protocol="oracle_split", min_samples_leaf=0),
            "min_samples_leaf",
        ),
    ],
)
def test_attacks_refuse_what_they_cannot_do(run: partial[Judged], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(theory([], 0))
