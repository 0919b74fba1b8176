"""Methods whose base is trained in a way of its own: SISA's voting ensemble and amnesiac unlearning's log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_unlearners import CLASSES, FORGET, NOTHING, RETAIN, flat, samples, tiny_model
from torch import nn
from torch.nn import functional as F

from palimpsest import models
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_images import OnImages, uma
from palimpsest.curvature import per_sample_gradients, weights
from palimpsest.data import Samples, pixels
from palimpsest.models.ensemble import Ensemble
from palimpsest.seeds import stable_seed
from palimpsest.train import Batch, Checkpoint, Recipe, fit
from palimpsest.unlearners import Base, Step, Unlearned, amnesiac, finetune, sisa

DATA = samples(40)
SEED = 3
CHANGED = Samples(255 - FORGET.images, FORGET.labels)


def batch_norm_model() -> models.Network:
    spec = models.Spec("resnet", CLASSES, 1, {"width": 2})
    return models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), 1)


def voting(method: str = "small_cnn", members: int = 3, **keywords: Any) -> models.Network:
    spec = models.Spec("ensemble", CLASSES, 1, {"method": method, "members": members, "keywords": keywords})
    return models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), 1)


def parted(data: Samples, indices: torch.Tensor) -> tuple[Samples, Samples]:
    """The samples at `indices`, and the others."""
    chosen = torch.zeros(len(data.labels), dtype=torch.bool)
    chosen[indices] = True
    return Samples(*(tensor[chosen] for tensor in data)), Samples(*(tensor[~chosen] for tensor in data))


def replaced(data: Samples, indices: torch.Tensor, put: Samples) -> Samples:
    """The data with other samples at `indices`."""
    changed = Samples(data.images.clone(), data.labels.clone())
    for place, image, label in zip(indices.tolist(), *put, strict=True):
        changed.images[place], changed.labels[place] = image, label
    return changed


def serve(
    method: Any,
    base: tuple[models.Network, Any],
    data: Samples,
    indices: torch.Tensor,
    recipe: Recipe,
    *,
    seed: int = SEED,
    replacement: Samples | None = None,
    checkpoint: Checkpoint | None = None,
    **settings: Any,
) -> Unlearned:
    """One request on what a base training, or the step before, left of `data` as it stands."""
    at = Step(seed, recipe, indices=indices, replacement=replacement, kept=base[1], checkpoint=checkpoint)
    return method.unlearn(base[0], *parted(data, indices), at, **settings)


class Killed(Exception):
    pass


def killing(monkeypatch: pytest.MonkeyPatch, module: Any, at: int) -> None:
    """The module's trainings end with `Killed` after so many steps, all of them counted together."""
    steps = 0

    def killed(*given: Any, after_step: Callable[[nn.Module, Batch], None] | None = None, **named: Any) -> Any:
        def count(model: nn.Module, batch: Batch) -> None:
            nonlocal steps
            if after_step:
                after_step(model, batch)
            steps += 1
            if steps == at:
                raise Killed

        return fit(*given, after_step=count, **named)

    monkeypatch.setattr(module, "fit", killed)


class Told(nn.Module):
    """A member that answers with given logits (N, classes), whatever it is shown."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


class TestEnsemble:
    def test_answer_is_the_majority_and_the_softmax_is_the_mean_probability(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 2 * torch.randn(5, 500, CLASSES, generator=generator)
        output = Ensemble([Told(each) for each in logits])(torch.zeros(500, 1, 8, 8))
        outvoted = ties = 0
        for row in range(500):
            votes = Counter(int(each[row].argmax()) for each in logits)
            mean = sum(each[row].softmax(0) for each in logits) / 5
            best = max(votes.values())
            first = [label for label, count in votes.items() if count == best]
            winner = max(first, key=lambda label: float(mean[label]))
            found = output[row].softmax(0)
            assert int(found.argmax()) == winner
            assert torch.allclose(found.sort().values, mean.sort().values, atol=1e-5)
            if winner == int(mean.argmax()):
                assert torch.allclose(found, mean, atol=1e-6)
            else:
                outvoted += 1
            ties += len(first) > 1
        assert outvoted > 20 and ties > 20, "both cases occur"

    def test_majority_wins_where_the_mean_is_a_tie(self) -> None:
        lean = torch.linspace(0.001, 0.24, 500)
        shares = torch.stack([0.5 - lean, 0.5 - lean, 0.5 + 2 * lean])  # of class 0: outvoted two to one, mean 1/2
        output = Ensemble([Told(torch.stack([share, 1 - share], 1).log()) for share in shares])(
            torch.zeros(500, 1, 8, 8)
        )
        assert (output.softmax(1).argmax(1) == 1).all()

    def test_a_majority_stays_finite_against_a_member_that_is_certain(self) -> None:
        logits = torch.tensor([[[0.0, 1e4]], [[0.1, 0.2]], [[1e4, 0.0]]])
        output = Ensemble([Told(each) for each in logits])(torch.zeros(1, 1, 8, 8))
        assert torch.isfinite(output).all() and int(output.argmax(1)) == 1

    def test_gradient_is_that_of_the_log_of_the_mean_probability(self) -> None:
        model = voting(width=4, hidden=8).double()
        pixels = torch.rand(64, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        direction = torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        factor = torch.randn(64, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

        def naive(at: torch.Tensor) -> torch.Tensor:
            normal = (at - model.mean) / model.std
            mean = torch.stack([member(normal).softmax(1) for member in model.net.members]).mean(0)
            return (factor * mean.log()).sum(1)

        pixels.requires_grad_(True)
        output = model(pixels)
        (slope,) = torch.autograd.grad((factor * output).sum(), pixels)
        with torch.no_grad():
            expected = (naive(pixels + 1e-6 * direction) - naive(pixels - 1e-6 * direction)) / 2e-6
            mean = torch.stack([m((pixels - model.mean) / model.std).softmax(1) for m in model.net.members]).mean(0)
        assert (output.argmax(1) != mean.argmax(1)).any(), "some rows are exchanged, their gradient is not"
        assert torch.allclose((slope * direction).sum((1, 2, 3)), expected, rtol=1e-5, atol=1e-8)

    def test_uma_finds_its_way_down_on_an_ensemble(self) -> None:
        model, original = voting(width=4, hidden=8), voting(width=4, hidden=8)
        for parameter in original.parameters():
            parameter.data *= 1.2
        still, moved = (
            uma.attack(OnImages(model, original, FORGET, seed=0), steps=steps, epsilons=("16/255",))
            for steps in (0, 10)
        )
        assert (moved.loss < still.loss).double().mean() > 0.8
        assert (moved.images[0].int() - FORGET.images.int()).abs().max() <= 16

    def test_uma_folds_the_members_batch_normalisation(self) -> None:
        model, probe = voting("resnet", 1, width=2).eval(), FORGET.images.float() / 255
        folded = frozen(model, probe)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert torch.allclose(folded(probe), model(probe), atol=1e-4)

    def test_per_sample_gradients_go_through_the_vote(self) -> None:
        model = voting(width=4, hidden=8).double()
        total = torch.cat(list(per_sample_gradients(model, FORGET))).sum(0)
        loss = F.cross_entropy(model(FORGET.images.double() / 255), FORGET.labels, reduction="sum")
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        assert torch.allclose(total, expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        ("method", "members", "error", "fault"),
        [("../lenet", 2, models.ModelError, "no network file"), ("lenet", 0, ValueError, "members cannot be 0")],
    )
    def test_refuses_members_that_do_not_exist(
        self, method: str, members: int, error: type[Exception], fault: str
    ) -> None:
        with pytest.raises(error, match=fault):
            voting(method, members)


@pytest.mark.parametrize(
    ("epochs", "slices", "expected"),
    [
        (10, 5, [3, 3, 4, 3, 3]),
        (5, 5, [1, 2, 2, 1, 2]),
        (3, 5, [1] * 5),
        (7, 1, [7]),
        (21, 8, [4, 5, 5, 4, 5, 5, 4, 5]),
    ],
)
def test_slice_epochs_are_the_formulas(epochs: int, slices: int, expected: list[int]) -> None:
    assert sisa.slice_epochs(epochs, slices) == expected
    share = 2 * epochs / (slices + 1)
    assert expected == [int((s + 1) * 2 * epochs / (slices + 1)) - int(s * share + 1e-9) for s in range(slices)]


class TestSisa:
    RECIPE = Recipe(epochs=4, batch_size=4, lr=0.02, schedule="cosine", warmup_epochs=1, augment=("crop",))
    SHAPE: dict[str, Any] = {"shards": 3, "slices": 3}  # noqa: RUF012

    def base(self, checkpoint: Checkpoint | None = None) -> tuple[models.Network, dict[str, torch.Tensor]]:
        return sisa.train_base(tiny_model(), DATA, Base(SEED, self.RECIPE, checkpoint=checkpoint), **self.SHAPE)

    def unlearned(
        self, base: tuple[models.Network, dict[str, torch.Tensor]], indices: torch.Tensor, **given: Any
    ) -> models.Network:
        return serve(sisa, base, DATA, indices, self.RECIPE, **given).network

    def from_scratch(
        self,
        model: models.Network,
        data: Samples,
        kept: dict[str, torch.Tensor],
        gone: set[int],
        recipe: Recipe = Recipe(2, 4, 0.02, schedule="cosine", warmup_epochs=0.5, augment=("crop",)),
        shards: int = 3,
        slices: int = 3,
    ) -> dict[str, torch.Tensor]:
        """Every shard's network after its last slice, trained one after the other without the samples `gone`.

        recipe: what one slice trains with.
        """
        found: dict[str, torch.Tensor] = {}
        place = list(zip(kept["assignment/shard"].tolist(), kept["assignment/slice"].tolist(), strict=True))
        for k in range(shards):
            member = models.fresh(model, stable_seed(SEED, k, "initial"))
            for s in range(slices):
                chosen = [i for i, (of, part) in enumerate(place) if of == k and part <= s and i not in gone]
                part = Samples(data.images[chosen], data.labels[chosen])
                fit(member, part, recipe, seed=stable_seed(SEED, k, s))
            found |= {f"net.members.{k}.{name}": tensor for name, tensor in member.net.state_dict().items()}
        return found

    def assert_same(self, network: models.Network, expected: dict[str, torch.Tensor]) -> None:
        state = {name: tensor for name, tensor in network.state_dict().items() if name not in ("mean", "std")}
        assert state.keys() == expected.keys()
        assert [name for name, tensor in state.items() if not torch.equal(tensor, expected[name])] == []

    def test_shards_and_slices_are_disjoint_even_random_and_the_seeds(self) -> None:
        place = []
        for seed in (SEED, SEED, SEED + 1):
            recipe = Recipe(epochs=2, batch_size=40, lr=0.0)
            _, kept = sisa.train_base(tiny_model(), DATA, Base(seed, recipe), **self.SHAPE)
            place.append(list(zip(*(kept[f"assignment/{name}"].tolist() for name in ("shard", "slice")), strict=True)))
        assert place[0] == place[1] != place[2]
        shards, cells = Counter(k for k, _ in place[0]), Counter(place[0])
        assert sorted(shards.values()) == [13, 13, 14] and len(cells) == 9 and set(cells.values()) == {4, 5}
        assert place[0] != sorted(place[0])

    def test_a_request_gives_the_network_that_never_saw_the_samples(self) -> None:
        model = tiny_model()
        before = flat(model).clone()
        base = sisa.train_base(model, DATA, Base(SEED, self.RECIPE), **self.SHAPE)
        assert torch.equal(flat(model), before)
        self.assert_same(base[0], self.from_scratch(model, DATA, base[1], set()))
        shard, part = base[1]["assignment/shard"], base[1]["assignment/slice"]
        # Shard 0 from its second slice on, shard 2 from its first; shard 1 is not asked.
        indices = (
            torch.cat([((shard == k) & (part == s)).nonzero().flatten()[:2] for k, s in ((0, 1), (0, 2), (2, 0))])
            .sort()
            .values
        )
        after = self.unlearned(base, indices)
        self.assert_same(after, self.from_scratch(model, DATA, base[1], set(indices.tolist())))
        for k, same in ((0, False), (1, True), (2, False)):
            assert torch.equal(flat(after.net.members[k]), flat(base[0].net.members[k])) == same
        other = self.unlearned(base, indices, seed=SEED + 1)
        assert torch.equal(flat(other.net.members[1]), flat(after.net.members[1]))
        assert not torch.equal(flat(other.net.members[2]), flat(after.net.members[2]))

    def test_batch_norms_statistics_go_back_with_the_weights(self) -> None:
        recipe = Recipe(epochs=2, batch_size=4, lr=0.02)
        few = Samples(*(tensor[:16] for tensor in DATA))
        base = sisa.train_base(batch_norm_model(), few, Base(SEED, recipe), shards=2, slices=2)
        kept = base[1]
        gone = ((kept["assignment/shard"] == 1) & (kept["assignment/slice"] == 1)).nonzero().flatten()[:1]
        after = serve(sisa, base, few, gone, recipe).network
        once = Recipe(epochs=1, batch_size=4, lr=0.02)
        self.assert_same(after, self.from_scratch(batch_norm_model(), few, kept, {int(gone)}, once, 2, 2))

    def test_only_slices_from_the_first_touched_one_on_are_retrained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base = self.base()
        trained: list[int] = []

        def counted(model: models.Network, data: Samples, *given: Any, **named: Any) -> models.Network:
            trained.append(len(data.labels))
            return fit(model, data, *given, **named)

        monkeypatch.setattr(sisa, "fit", counted)
        for k in range(3):
            for s in range(3):
                trained.clear()
                place = (base[1]["assignment/shard"] == k, base[1]["assignment/slice"])
                self.unlearned(base, (place[0] & (place[1] == s)).nonzero().flatten()[:1])
                assert trained == [int((place[0] & (place[1] <= later)).sum()) - 1 for later in range(s, 3)]

    def test_it_goes_on_from_the_kept_state_before_the_slice(self) -> None:
        network, kept = self.base()
        indices = ((kept["assignment/shard"] == 1) & (kept["assignment/slice"] == 1)).nonzero().flatten()[:1]
        plain = self.unlearned((network, kept), indices)
        for s, matters in ((0, True), (1, False), (2, False)):
            other = {name: t + 0.1 if name.startswith(f"shard1/slice{s}/net") else t for name, t in kept.items()}
            assert torch.equal(flat(self.unlearned((network, other), indices)), flat(plain)) != matters

    def test_kept_states_are_finite_and_the_last_ones_are_the_members(self, tmp_path: Path) -> None:
        network, kept = self.base()
        for k in range(3):
            for name, tensor in network.net.members[k].state_dict().items():
                states = [kept[f"shard{k}/slice{s}/net.{name}"] for s in range(3)]
                assert torch.equal(states[2], tensor) and not torch.equal(states[1], tensor)
        models.save({0: network}, tmp_path / "model.safetensors", {0: {}})
        again = models.load(tmp_path / "model.safetensors", 0)
        assert again.spec == network.spec
        assert torch.equal(models.predict(again, DATA.images), models.predict(network, DATA.images))
        save_file(kept, str(tmp_path / "kept.safetensors"))
        left, indices = load_file(str(tmp_path / "kept.safetensors")), torch.tensor([5, 20])
        assert torch.equal(flat(self.unlearned((again, left), indices)), flat(self.unlearned((network, kept), indices)))

    def test_a_modified_sample_is_trained_on_in_its_place(self) -> None:
        base = self.base()
        indices = torch.tensor([2, 17, 30])
        put = Samples(255 - DATA.images[indices], (DATA.labels[indices] + 1) % CLASSES)
        after = self.unlearned(base, indices, replacement=put)
        changed = replaced(DATA, indices, put)
        self.assert_same(after, self.from_scratch(tiny_model(), changed, base[1], set()))

    @pytest.mark.parametrize("at", [1, 12, 40])
    def test_a_killed_training_or_request_ends_as_if_it_were_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        checkpoint = Checkpoint(tmp_path / "base.resume", "key", seconds=0)
        whole = self.base()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, sisa, at)
            self.base(checkpoint)
        assert any(tmp_path.iterdir()) == (at > 4), "written after every epoch and every slice"
        again = self.base(checkpoint)
        assert torch.equal(flat(again[0]), flat(whole[0]))
        assert all(torch.equal(tensor, whole[1][name]) for name, tensor in again[1].items())
        assert not list(tmp_path.glob("*.slice"))

        indices = torch.arange(0, 40, 5)
        checkpoint = Checkpoint(tmp_path / "request.resume", "key", seconds=0)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, sisa, (at + 1) // 2)
            self.unlearned(whole, indices, checkpoint=checkpoint)
        after = self.unlearned(whole, indices, checkpoint=checkpoint)
        assert torch.equal(flat(after), flat(self.unlearned(whole, indices)))

    @pytest.mark.parametrize("changed", [False, True], ids=["removed", "replaced"])
    def test_each_network_is_judged_by_the_samples_of_the_other_shards(self, changed: bool) -> None:
        base, indices = self.base(), torch.tensor([1, 5])
        replacement = Samples(255 - DATA.images[indices], DATA.labels[indices]) if changed else None
        made = serve(sisa, base, DATA, indices, self.RECIPE, replacement=replacement, shard_accuracy=True)
        data = [(DATA.images[i], int(DATA.labels[i])) for i in range(len(DATA.labels)) if changed or i not in (1, 5)]
        if changed:
            data[1], data[5] = ((255 - data[i][0], data[i][1]) for i in (1, 5))
        shards = made.kept["assignment/shard"].tolist()
        found = []
        for k in range(3):
            member = models.fresh(tiny_model(), 0)
            member.net.load_state_dict(cast(Ensemble, made.network.net).members[k].state_dict())
            others = [place for place, shard in enumerate(shards) if shard != k]
            right = [int(member(pixels(data[i][0][None])).argmax()) == data[i][1] for i in others]
            found.append(100 * sum(right) / len(right))
        assert len({*found}) > 1
        assert float(made.kept["told/shard_accuracy"]) == pytest.approx(sum(found) / 3)
        assert float(made.kept["told/shard_accuracy_least"]) == pytest.approx(min(found))

    def test_a_resumed_training_does_not_repeat_finished_slices(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = Checkpoint(tmp_path / "base.resume", "key", seconds=0)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, sisa, 12)  # shard 0: 2 epochs of 2 steps, of 3, of 4: in the third slice
            self.base(checkpoint)
        seen: list[int] = []
        monkeypatch.setattr(sisa, "fit", lambda model, *given, seed, **named: seen.append(seed))
        self.base(checkpoint)
        assert seen == [stable_seed(SEED, k, s) for k in range(3) for s in range(3)][2:]

    def test_refuses_in_one_sentence(self) -> None:
        network, kept = self.base()
        indices = torch.arange(8)
        whole_slice = ((kept["assignment/shard"] == 0) & (kept["assignment/slice"] == 0)).nonzero().flatten()
        for fault, call in (
            ("slice 0 none; take at least 3 epochs", lambda: sisa.slice_epochs(2, 5)),
            (
                "40 samples do not fill",
                lambda: sisa.train_base(tiny_model(), DATA, Base(0, self.RECIPE), shards=41),
            ),
            (
                r"sisa: shards cannot be 0; it takes a whole number in \[1, train\]",
                lambda: sisa.train_base(tiny_model(), DATA, Base(0, self.RECIPE), shards=0),
            ),
            ("no ensemble", lambda: self.unlearned((tiny_model(), None), indices)),  # type: ignore[arg-type]
            (
                "trained on 40 samples, and the request is on 39",
                lambda: serve(sisa, (network, kept), parted(DATA, indices[:1])[1], indices, self.RECIPE),
            ),
            ("nothing is left of shard 0", lambda: self.unlearned((network, kept), whole_slice)),
            ("one for each", lambda: self.unlearned((network, kept), indices, replacement=NOTHING)),
        ):
            with pytest.raises(ValueError, match=fault):
                call()


class TestAmnesiac:
    ONE, SOME, ALL = torch.tensor([3]), torch.arange(8), torch.arange(40)

    def recipe(self, optimizer: str = "sgd") -> Recipe:
        return Recipe(epochs=4, batch_size=4, lr=0.01, optimizer=optimizer, augment=("crop",), schedule="cosine")

    def base(
        self, recipe: Recipe, model: models.Network | None = None, checkpoint: Checkpoint | None = None
    ) -> tuple[models.Network, dict[str, torch.Tensor]]:
        return amnesiac.train_base(
            model or tiny_model(),
            DATA,
            Base(SEED, recipe, requests=[self.ONE, self.SOME, self.ALL], checkpoint=checkpoint),
        )

    def undone(
        self, base: tuple[models.Network, dict[str, torch.Tensor]], indices: torch.Tensor, **settings: Any
    ) -> models.Network:
        """The network after the request; nothing is fine-tuned unless told."""
        given = {"recipe": self.recipe(), "epochs": 0, **settings}
        return serve(amnesiac, base, DATA, indices, **given).network

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_logging_changes_no_bit_and_forgetting_everything_gives_the_initial_weights(self, optimizer: str) -> None:
        model = tiny_model()
        network, kept = self.base(self.recipe(optimizer), model)
        assert torch.equal(flat(model), flat(tiny_model()))
        assert torch.equal(flat(network), flat(fit(tiny_model(), DATA, self.recipe(optimizer), seed=SEED)))
        assert not torch.allclose(flat(network), flat(model), atol=1e-3)
        assert torch.equal(flat(self.undone((network, kept), self.ALL)), flat(model))

    def test_a_request_takes_back_what_its_batches_did_and_nothing_else(self) -> None:
        network, kept = self.base(self.recipe())
        steps: list[tuple[set[int], torch.Tensor]] = []
        last = [weights(tiny_model()).double()]

        def record(model: nn.Module, batch: Batch) -> None:
            now = weights(model).double()
            steps.append((set(batch.index.tolist()), now - last[0]))
            last[0] = now

        fit(tiny_model(), DATA, self.recipe(), seed=SEED, after_step=record)
        for indices, expected_steps in ((self.ONE, 4), (self.SOME, None), (self.ALL, 40)):
            deltas = [delta for batch, delta in steps if batch & set(indices.tolist())]
            assert expected_steps in (None, len(deltas)) and len(steps) == 40
            assert indices is not self.SOME or 16 < len(deltas) < 40
            expected = (weights(network).double() - sum(deltas)).float()
            assert torch.allclose(weights(self.undone((network, kept), indices)), expected, rtol=0, atol=1e-8)

    def test_log_is_a_float64_sum_for_each_set_of_requests_that_a_batch_touches(self) -> None:
        network, kept = self.base(self.recipe())
        names = [name for name, _ in network.named_parameters()]
        steps = ["seed", *(f"request{number}/indices" for number in range(3))]
        sets = {key.split("/")[1] for key in kept if key not in steps}
        assert sets == {"001", "011", "111"}, "the requests lie within one another, and every batch is in the last"
        assert kept.keys() == {*steps, *(f"touched/{one}/{name}" for one in sets for name in names)}
        assert all(tensor.dtype == torch.float64 for name, tensor in kept.items() if name not in steps)
        none = amnesiac.train_base(tiny_model(), DATA, Base(SEED, self.recipe(), requests=[torch.arange(0)]))[1]
        assert none.keys() == {"request0/indices", "seed"}

    @pytest.mark.parametrize("at", [15, 38])
    def test_log_of_a_killed_and_resumed_training_is_that_of_an_uninterrupted_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        network, kept = self.base(self.recipe("adam"))
        checkpoint = Checkpoint(tmp_path / "model.resume", "key", seconds=0)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, amnesiac, at)
            self.base(self.recipe("adam"), checkpoint=checkpoint)
        assert checkpoint.path.exists()
        resumed, log = self.base(self.recipe("adam"), checkpoint=checkpoint)
        assert torch.equal(flat(resumed), flat(network))
        assert all(torch.equal(log[name], tensor) for name, tensor in kept.items())

    def test_running_statistics_stay_until_fine_tuning(self) -> None:
        network, kept = self.base(Recipe(epochs=1, batch_size=20, lr=0.01), batch_norm_model())
        after = self.undone((network, kept), self.ALL)
        assert torch.equal(weights(after), weights(batch_norm_model()))
        trained = dict(network.named_buffers())
        assert all(torch.equal(trained[name], buffer) for name, buffer in after.named_buffers())
        tuned = dict(self.undone((network, kept), self.SOME, epochs=1, recipe=Recipe(1, 16, 0.01)).named_buffers())
        assert not torch.equal(tuned["net.bn1.running_mean"], trained["net.bn1.running_mean"])

    @pytest.mark.parametrize("replacement", [None, CHANGED], ids=["removed", "replaced"])
    def test_then_it_trains_on_what_is_left_and_on_the_replacements(self, replacement: Samples | None) -> None:
        base = self.base(self.recipe())
        expected = self.undone(base, self.SOME)
        left = RETAIN if replacement is None else replaced(DATA, self.SOME, replacement)
        constant = Recipe(epochs=2, batch_size=4, lr=0.05, augment=("crop",), schedule="constant")
        fit(expected, left, constant, seed=9)
        found = self.undone(base, self.SOME, seed=9, epochs=2, lr=0.05, replacement=replacement)
        assert torch.equal(flat(found), flat(expected))

    def test_refuses_in_one_sentence(self) -> None:
        base = self.base(self.recipe())
        for fault, call in (
            ("no log", lambda: self.undone((base[0], None), self.SOME)),  # type: ignore[arg-type]
            ("request for these 7 samples", lambda: self.undone(base, torch.arange(7))),
            ("request for these 8 samples", lambda: self.undone(base, torch.arange(1, 9))),
            ("nothing is retained", lambda: self.undone(base, self.ALL, epochs=1)),
        ):
            with pytest.raises(ValueError, match=fault):
                call()


class TestChains:
    """Requests one after the other, each on what the one before left."""

    FIRST, SECOND = torch.tensor([2, 17, 30]), torch.tensor([4, 11, 36])  # each into the data as it then stands
    PUT = Samples(255 - DATA.images[FIRST], (DATA.labels[FIRST] + 1) % CLASSES)

    @pytest.mark.parametrize("slices", [1, 3])
    @pytest.mark.parametrize("changed", [False, True], ids=["removed", "replaced"])
    def test_a_second_request_to_sisa_is_as_exact_as_the_first(self, slices: int, changed: bool) -> None:
        recipe = Recipe(epochs=2, batch_size=4, lr=0.02)
        base = sisa.train_base(tiny_model(), DATA, Base(SEED, recipe), shards=3, slices=slices)
        place = list(zip(base[1]["assignment/shard"].tolist(), base[1]["assignment/slice"].tolist(), strict=True))
        # The first asks for early slices, the second for late ones of the same shards: it goes on from the first's.
        first = [next(i for i in range(40) if place[i] == (k, 0)) for k in range(3)]
        second = [[i for i in range(40) if place[i] == (k, slices - 1)][-1] for k in range(3)]
        asked = torch.tensor(sorted(first))
        put = Samples(255 - DATA.images[asked], (DATA.labels[asked] + 1) % CLASSES) if changed else None
        one = serve(sisa, base, DATA, asked, recipe, replacement=put)
        left = replaced(DATA, asked, put) if put else parted(DATA, asked)[1]
        shift = [0 if changed else sum(other < i for other in first) for i in sorted(second)]
        two = serve(sisa, one, left, torch.tensor(sorted(second)) - torch.tensor(shift), recipe)

        # Retrained from the very first weights on what is left, where the base put it.
        whole, gone = (left, {*second}) if changed else (DATA, {*first, *second})
        for k in range(3):
            member = models.fresh(tiny_model(), stable_seed(SEED, k, "initial"))
            for s in range(slices):
                chosen = [i for i in range(40) if i not in gone and place[i][0] == k and place[i][1] <= s]
                part = Samples(whole.images[chosen], whole.labels[chosen])
                fit(member, part, Recipe(sisa.slice_epochs(2, slices)[s], 4, 0.02), seed=stable_seed(SEED, k, s))
            found = two.network.net.members[k]
            assert torch.equal(flat(found), flat(member.net)), k
            assert not torch.equal(flat(found), flat(base[0].net.members[k])), "each shard was asked"
        assert len(two.kept["assignment/shard"]) == len(two.kept["assignment/slice"]) == 40 - len(gone)

    @pytest.mark.parametrize("at", [3, 9, 14])
    def test_a_third_step_fine_tunes_the_result_and_ends_the_same_after_a_kill(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        recipe = Recipe(epochs=2, batch_size=4, lr=0.02)
        base = sisa.train_base(tiny_model(), DATA, Base(SEED, recipe), shards=2, slices=2)
        one = serve(sisa, base, DATA, self.FIRST, recipe)
        left = parted(DATA, self.FIRST)[1]
        two = serve(sisa, one, left, self.SECOND, recipe)
        left, third = parted(left, self.SECOND)[1], torch.tensor([0, 5])
        training = Recipe(epochs=3, batch_size=6, lr=0.01)
        whole = serve(finetune, two, left, third, recipe, training=training).network
        expected = fit(deepcopy(two.network), parted(left, third)[1], training, seed=SEED)
        assert torch.equal(flat(whole), flat(expected)) and not torch.equal(flat(whole), flat(two.network))

        checkpoint = Checkpoint(tmp_path / "three.resume", "key", seconds=0)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, finetune, at)
            serve(finetune, two, left, third, recipe, training=training, checkpoint=checkpoint)
        assert checkpoint.path.exists() == (at > 6), "written after every epoch of six steps"
        again = serve(finetune, two, left, third, recipe, training=training, checkpoint=checkpoint).network
        assert torch.equal(flat(again), flat(whole))

    @pytest.mark.parametrize("at", [3, 9])
    def test_a_second_request_to_sisa_that_was_killed_ends_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        recipe = Recipe(epochs=3, batch_size=4, lr=0.02)
        base = sisa.train_base(tiny_model(), DATA, Base(SEED, recipe), shards=2, slices=2)
        one = serve(sisa, base, DATA, self.FIRST, recipe)
        left = parted(DATA, self.FIRST)[1]
        whole = serve(sisa, one, left, self.SECOND, recipe)
        checkpoint = Checkpoint(tmp_path / "two.resume", "key", seconds=0)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, sisa, at)
            serve(sisa, one, left, self.SECOND, recipe, checkpoint=checkpoint)
        again = serve(sisa, one, left, self.SECOND, recipe, checkpoint=checkpoint)
        assert torch.equal(flat(again.network), flat(whole.network)) and again.kept.keys() == whole.kept.keys()
        assert all(torch.equal(tensor, whole.kept[name]) for name, tensor in again.kept.items())

    @pytest.mark.parametrize("put", [None, PUT], ids=["removed", "replaced"])
    @pytest.mark.parametrize("epochs", [0, 2])
    def test_a_second_amnesiac_request_takes_no_batch_back_twice(self, put: Samples | None, epochs: int) -> None:
        recipe = Recipe(epochs=3, batch_size=4, lr=0.01)
        second = self.SECOND if put is not None else torch.tensor([5, 12, 39])  # the same samples, before any is gone
        base = amnesiac.train_base(tiny_model(), DATA, Base(SEED, recipe, requests=[self.FIRST, second]))
        settings: dict[str, Any] = {"epochs": epochs, "lr": 0.02}
        one = serve(amnesiac, base, DATA, self.FIRST, recipe, replacement=put, **settings)
        left = parted(DATA, self.FIRST)[1] if put is None else replaced(DATA, self.FIRST, put)
        two = serve(amnesiac, one, left, self.SECOND, recipe, **settings)
        assert two.kept.keys() == set(), "no request is left"

        # Every update of every step stored, with the samples by the numbers that they had at first.
        steps: list[tuple[set[int], torch.Tensor]] = []
        taken = 0

        def train(model: nn.Module, data: Samples, names: torch.Tensor, how: Recipe) -> None:
            last = [weights(model).double()]

            def record(model: nn.Module, batch: Batch) -> None:
                now = weights(model).double()
                steps.append((set(names[batch.index].tolist()), now - last[0]))
                last[0] = now

            fit(model, data, how, seed=SEED, after_step=record)

        def forget(model: nn.Module, names: set[int]) -> None:
            nonlocal taken
            touching = [delta for batch, delta in steps if batch & names]
            steps[:] = [(batch, delta) for batch, delta in steps if not batch & names]
            taken += len(touching)
            nn.utils.vector_to_parameters((weights(model).double() - sum(touching)).float(), model.parameters())

        naive, constant = tiny_model(), Recipe(epochs=max(epochs, 1), batch_size=4, lr=0.02)
        train(naive, DATA, torch.arange(40), recipe)
        shared = sum(bool(batch & set(self.FIRST.tolist()) and batch & set(second.tolist())) for batch, _ in steps)
        assert shared, "some batches hold samples of both"
        names = torch.arange(40)
        for indices, data in ((self.FIRST, left), (self.SECOND, parted(left, self.SECOND)[1])):
            forget(naive, set(names[indices].tolist()))
            if put is None or indices is self.SECOND:
                names = parted(Samples(names, names), indices)[1].labels
            if epochs:
                train(naive, data, names, constant)
        assert taken < (30 + 9 * epochs) * 2
        assert torch.allclose(weights(two.network), weights(naive), rtol=0, atol=1e-7)
        assert not torch.allclose(weights(two.network), weights(base[0]), rtol=0, atol=1e-3)
