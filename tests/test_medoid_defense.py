"""The malicious paper's defense: what it isolates, against gradients one by one, and how that is then unlearned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_own_base import parted, replaced
from test_unlearners import CLASSES, RECIPE, flat, samples, tiny_model
from torch.nn import functional as F

from palimpsest import medoids, models, requests
from palimpsest.data import Samples, pixels
from palimpsest.requests import Request
from palimpsest.seeds import stable_seed
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Base, Step, Unlearned, medoid_defense, sisa

DATA = samples(60)
ALIKE = Samples(torch.stack([DATA.images[label] for label in range(CLASSES)]).repeat(6, 1, 1, 1), DATA.labels[:24])


@pytest.fixture(scope="module")
def trained() -> models.Network:
    return fit(tiny_model(), DATA, Recipe(epochs=12, batch_size=8, lr=0.05), seed=0).eval()


def of(data: Samples, chosen: torch.Tensor | list[int]) -> Samples:
    return Samples(*(part[chosen] for part in data))


def defended(
    model: models.Network, data: Samples, asked: torch.Tensor | None = None, *, kept: Any = None, **settings: Any
) -> Unlearned:
    """The step after one that replaced the samples at `asked`."""
    forget = of(DATA, asked if asked is not None else [0])
    at = Step(5, RECIPE, indices=asked, kept=kept)
    return medoid_defense.unlearn(model, forget, data, at, **settings)


def told(made: Unlearned) -> dict[str, int]:
    return {name[5:]: int(tensor) for name, tensor in made.kept.items() if name.startswith("told/")}


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Samples, Samples, Step]]:
    """What the backbone is asked for; it does nothing."""
    found: list[tuple[Samples, Samples, Step]] = []

    def stub(model: models.Network, forget: Samples, retain: Samples, at: Step) -> Unlearned:
        found.append((forget, retain, at))
        return Unlearned(model, {})

    monkeypatch.setattr("palimpsest.unlearners.retrain.unlearn", stub)
    return found


def rows(model: models.Network, data: Samples, gradient: str) -> torch.Tensor:
    """Each sample's gradient, by autograd."""
    found = []
    heads = [member[-1] for member in getattr(model.net, "members", [model.net])]
    over = {"full": [*model.parameters()], "last_layer": [one for head in heads for one in head.parameters()]}
    for image, label in zip(*data, strict=True):
        logits = model(pixels(image[None], model.mean.dtype))
        loss = F.cross_entropy(logits, label[None])
        slopes = torch.autograd.grad(loss, over.get(gradient, [logits]))
        found.append(torch.cat([slope.flatten() for slope in slopes]).double())
    return torch.stack(found)


@pytest.mark.parametrize("gradient", ["last_layer", "logit", "full"])
@pytest.mark.parametrize("by", ["medoids", "gradient_norm", "random"])
def test_of_each_class_the_isolated_medoids_go_or_as_many_by_another_rule(
    removed: list[tuple[Samples, Samples, Step]], trained: models.Network, gradient: str, by: str
) -> None:
    model = trained.double() if gradient == "full" else trained.float()
    defended(model, DATA, torch.tensor([3, 4]), backbone="retrain", gradient=gradient, by=by, share=0.2)
    ((gone, left, at),) = removed
    wanted: list[int] = []
    for label in range(CLASSES):
        place = (DATA.labels == label).nonzero().flatten()
        each = rows(model, of(DATA, place), gradient)
        found = medoids.cluster(torch.cdist(each, each), 3)
        alone = found.medoids[torch.bincount(found.assignment, minlength=3) == 1]
        if by == "gradient_norm":
            alone = each.norm(dim=1).argsort(descending=True)[: len(alone)]
        wanted += place[alone].tolist()
    assert at.indices is not None and at.replacement is None and 0 < len(wanted) < 12
    if by == "random":
        assert torch.equal(DATA.labels[at.indices].bincount(), DATA.labels[wanted].bincount())
    else:
        assert at.indices.tolist() == sorted(wanted)
    expected = parted(DATA, at.indices)
    assert all(torch.equal(*pair) for pair in zip((*gone, *left), (*expected[0], *expected[1]), strict=True))


def test_what_is_drawn_at_random_depends_on_the_seed(
    removed: list[tuple[Samples, Samples, Step]], trained: models.Network
) -> None:
    for seed in (1, 1, 2):
        at = Step(seed, RECIPE)
        medoid_defense.unlearn(trained.float(), DATA, DATA, at, backbone="retrain", by="random", share=0.2)
    one, again, other = (at.indices.tolist() for _, _, at in removed if at.indices is not None)
    assert one == again != other and len(one) == len(other)


@pytest.mark.parametrize("gradient", ["last_layer", "logit", "full"])
def test_planted_poisons_are_found(trained: models.Network, gradient: str) -> None:
    """Samples whose label is another class's than what they show pull elsewhere than all others."""
    poisoned = torch.tensor([8, 17, 22, 43])
    data = replaced(DATA, poisoned, Samples(DATA.images[poisoned], (DATA.labels[poisoned] + 1) % CLASSES))
    made = defended(trained.float(), data, poisoned, share=0.1, gradient=gradient)
    found = told(made)
    assert found["points"] == 60 and found["asked"] == 4
    assert found["isolated_asked"] == 4 and found["isolated"] <= 6
    assert not torch.equal(flat(made.network), flat(trained.float()))


def test_a_class_of_one_sample_keeps_it(removed: list[tuple[Samples, Samples, Step]], trained: models.Network) -> None:
    data = of(DATA, torch.cat([torch.tensor([0]), (DATA.labels != 0).nonzero().flatten()]))
    for share in (0.1, 0.9):
        defended(trained.float(), data, backbone="retrain", share=share)
    for _, left, _ in removed:
        assert {*left.labels.tolist()} == {0, 1, 2, 3} and (left.labels == 0).sum() == 1


def test_where_nothing_is_isolated_the_model_stays_and_what_it_kept(trained: models.Network) -> None:
    kept = {"some": torch.ones(3), "told/isolated": torch.tensor(7)}
    made = defended(trained.float(), ALIKE, torch.tensor([1]), kept=kept)
    assert torch.equal(flat(made.network), flat(trained.float())) and torch.equal(made.kept["some"], kept["some"])
    assert told(made) == {"points": 24, "isolated": 0, "asked": 1, "isolated_asked": 0}


def test_of_what_is_gone_nothing_is_counted(trained: models.Network) -> None:
    assert told(defended(trained.float(), DATA))["asked"] == 0


class TestSisa:
    RECIPE = Recipe(epochs=3, batch_size=4, lr=0.02)
    ASKED = torch.tensor([5, 30, 41])
    PUT = Samples(255 - DATA.images[ASKED], DATA.labels[ASKED])

    @pytest.mark.parametrize("slices", [1, 2])
    def test_its_shards_are_those_trained_without_the_isolated_samples(self, slices: int) -> None:
        base = sisa.train_base(tiny_model(), DATA, Base(5, self.RECIPE), shards=3, slices=slices)
        first, second = (
            next(requests.steps(DATA, [Request(self.ASKED, self.PUT)], same=same)) for same in (False, True)
        )
        put = Step(5, self.RECIPE, indices=self.ASKED, replacement=self.PUT, kept=base[1])
        one = sisa.unlearn(base[0], *first[:2], put)
        at = Step(5, self.RECIPE, indices=second.indices, kept=one.kept)
        two = medoid_defense.unlearn(one.network, *second[:2], at, backbone="sisa", share=0.2)
        data = replaced(DATA, self.ASKED, self.PUT)
        gone: set[int] = set()
        for label in range(CLASSES):
            place = (data.labels == label).nonzero().flatten()
            each = rows(one.network, of(data, place), "last_layer")
            found = medoids.cluster(torch.cdist(each, each), 3)
            gone |= {*place[found.medoids[found.sizes == 1]].tolist()}
        assert 0 < len(gone) == told(two)["isolated"] and told(two)["asked"] == 3
        shards, parts = (base[1][f"assignment/{name}"].tolist() for name in ("shard", "slice"))
        for k in range(3):
            member = models.fresh(tiny_model(), stable_seed(5, k, "initial"))
            for s in range(slices):
                chosen = [i for i in range(60) if i not in gone and shards[i] == k and parts[i] <= s]
                how = Recipe(sisa.slice_epochs(3, slices)[s], 4, 0.02)
                fit(member, of(data, chosen), how, seed=stable_seed(5, k, s))
            assert torch.equal(flat(two.network.net.members[k]), flat(member.net)), k
        assert len(two.kept["assignment/shard"]) == 60 - len(gone)

        # And a request after it goes on from what it kept, without what it said of its own step.
        left = of(data, [i for i in range(60) if i not in gone])
        more = torch.tensor([7])
        three = sisa.unlearn(two.network, *parted(left, more), Step(5, self.RECIPE, indices=more, kept=two.kept))
        assert len(three.kept["assignment/shard"]) == 59 - len(gone) and not told(three)


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [("amnesiac", "its base training would have to know what is isolated"), ("nonesuch", "there is no file")],
)
def test_refuses_what_cannot_remove_samples_that_it_was_not_told_of(backbone: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"medoid_defense: backbone cannot be '{backbone}': {sentence}"):
        defended(tiny_model(), DATA, backbone=backbone)


def test_gradients_that_are_no_numbers_are_a_divergence() -> None:
    lost = Samples(pixels(DATA.images).clone(), DATA.labels)
    lost.images[3] = float("nan")
    with pytest.raises(models.Diverged, match="the inner products of gradients are not finite"):
        defended(tiny_model(), lost)
