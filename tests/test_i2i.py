"""Unlearning of a network that hides a part of every image: I2I and SalUn, on a small masked autoencoder of digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from card import REAL, card
from torch import nn

from palimpsest import models
from palimpsest.data import Samples, digits, pixels
from palimpsest.tasks import reconstruction
from palimpsest.train import Checkpoint, Recipe, fit
from palimpsest.unlearners import Step, gathered, i2i, salun_images

PATCH = 2


class Masked(nn.Module):
    """Images (N, 1, 8, 8) of which 8 of 16 patches are shown: a token each and their mean, and all pixels from the
    mean.
    """

    HIDES = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({
            "patch": nn.Linear(PATCH**2, width), "place": nn.Embedding(16, width), "mix": nn.Linear(width, width),
        })  # fmt: skip
        self.decoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))

    def places(self, keys: torch.Tensor) -> torch.Tensor:
        """Which patches are shown, (N, 8)."""
        return models.mixed(keys[:, None] ^ torch.arange(16, device=keys.device)).argsort(1)[:, :8]

    def visible(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        shown = torch.zeros(len(keys), 16, device=keys.device).scatter(1, self.places(keys), 1.0)
        return nn.functional.interpolate(shown.view(-1, 1, 4, 4), (height, width)).bool()

    def encode(self, scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        places = self.places(keys)
        patches = nn.functional.unfold(scaled, PATCH, stride=PATCH).transpose(1, 2)
        shown = patches.gather(1, places[:, :, None].expand(-1, -1, PATCH**2))
        tokens = torch.tanh(self.encoder["patch"](shown) + self.encoder["place"](places))
        tokens = torch.tanh(self.encoder["mix"](tokens))
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)

    def forward(self, scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        made = self.decoder(self.encode(scaled, keys)[:, 0]).view(scaled.shape)
        return torch.where(self.visible(keys, 8, 8), scaled, made)


class Hidden(models.Network):
    """The network around it, as if a file of models/ had built it."""

    def __init__(self, width: int = 16, seed: int = 0) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(seed)
        self.spec, self.net = models.Spec("masked", 10, 1), Masked(width)
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 0.3))
        self.register_buffer("std", torch.full((1, 1, 1, 1), 0.35))


def images_of(count: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Samples(drawn, torch.randint(10, (count,), generator=generator))


FORGET, RETAIN = images_of(12, 1), images_of(30, 2)
NOTHING = Samples(FORGET.images[:0], FORGET.labels[:0])
BASE = Recipe(epochs=1, batch_size=64, lr=0.1)
# One step over everything, whose gradient is the change of the weights.
STEP = {"epochs": 1, "batch_size": 99, "lr": 1.0, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0,
        "clip": None, "schedule": "constant", "warmup_epochs": 0.0}  # fmt: skip


def run(
    method: Any, model: models.Network, forget: Samples = FORGET, retain: Samples = RETAIN, **given: Any
) -> models.Network:
    """What a method makes of a request; what is given goes into the step or, by name, into its settings."""
    of_step = {name: given.pop(name) for name in set(given) & set(Step.__dataclass_fields__)}
    at = Step(**{"seed": 7, "recipe": BASE, "task": reconstruction, **of_step})
    return method.unlearn(model, forget, retain, at, **gathered(method.unlearn, given)).network


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in model.parameters()])


@pytest.fixture(params=[i2i, salun_images], ids=["i2i", "salun_images"])
def method(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestContract:
    """What holds of every unlearner, for those that classifiers do not have."""

    def test_they_are_for_networks_that_answer_with_images(self, method: Any) -> None:
        assert method.TASKS == ("reconstruction",)

    def test_the_seed_decides_what_is_drawn(self, method: Any) -> None:
        one, same, other = (flat(run(method, Hidden(), seed=seed)) for seed in (7, 7, 8))
        assert torch.equal(one, same) and not torch.equal(one, other)

    def test_inputs_stay_untouched(self, method: Any) -> None:
        model = Hidden()
        before, forget, retain = flat(model).clone(), FORGET.images.clone(), RETAIN.images.clone()
        made = run(method, model)
        assert torch.equal(flat(model), before) and not torch.equal(flat(made), before) and not made.training
        assert torch.equal(FORGET.images, forget) and torch.equal(RETAIN.images, retain)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    def test_weights_keep_their_type_whatever_that_of_the_images(self, method: Any) -> None:
        floats = Samples(pixels(FORGET.images, torch.float64), FORGET.labels)
        made, mixed = (run(method, Hidden().double(), forget) for forget in (FORGET, floats))
        assert flat(made).dtype == torch.float64
        assert torch.allclose(flat(made), flat(mixed), atol=1e-6), "grey levels and floats are one scale"

    def test_nothing_to_forget_changes_nothing_and_one_image_is_enough(self, method: Any) -> None:
        assert torch.equal(flat(run(method, Hidden(), NOTHING)), flat(Hidden()))
        one = run(method, Hidden(), Samples(FORGET.images[:1], FORGET.labels[:1]))
        assert flat(one).isfinite().all() and not torch.equal(flat(one), flat(Hidden()))

    def test_where_little_or_nothing_is_retained_all_is_forgotten_with_it(self, method: Any) -> None:
        few = Samples(RETAIN.images[:5], RETAIN.labels[:5])
        settings = {"target": "noise"} if method is salun_images else {}
        made, none = (run(method, Hidden(), retain=retain, **settings) for retain in (few, NOTHING))
        assert flat(none).isfinite().all() and not torch.equal(flat(none), flat(made))

    def test_what_is_not_finite_is_a_divergence(self, method: Any) -> None:
        lost = Samples(pixels(FORGET.images), FORGET.labels)
        lost.images[0] = float("nan")
        with pytest.raises(models.Diverged):
            run(method, Hidden(), lost)

    def test_replacements_are_refused(self, method: Any) -> None:
        with pytest.raises(ValueError, match=r"it removes samples and cannot put others"):
            run(method, Hidden(), replacement=FORGET, indices=torch.arange(12))

    def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
        self, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {"epochs": 4, "batch_size": 8, "warmup_epochs": 0.0, "lr": 0.01}
        whole = run(method, Hidden(), **settings)
        at, save = Checkpoint(tmp_path / "resume.safetensors", "key", seconds=0.0), Checkpoint.save

        def killed(self: Checkpoint, done: int, tensors: Any) -> None:
            save(self, done, tensors)
            if done == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Checkpoint, "save", killed)
            run(method, Hidden(), checkpoint=at, **settings)
        assert at.restore()[0] == 2
        assert torch.equal(flat(run(method, Hidden(), checkpoint=at, **settings)), flat(whole))

    def test_it_runs_on_a_card(self, method: Any) -> None:
        here = flat(run(method, Hidden()))
        with card() as device:
            forget, retain = (Samples(part.images.to(device), part.labels.to(device)) for part in (FORGET, RETAIN))
            made = run(method, Hidden().to(device), forget, retain)
            assert all(tensor.device == made.mean.device for tensor in made.state_dict().values())
            # In training a real card draws by itself what a network hides.
            assert REAL or torch.equal(flat(made).cpu(), here)

    def test_it_forgets_and_the_rest_stays(self, method: Any, learnt: dict[str, Any]) -> None:
        before, made = (
            learnt["model"],
            run(method, learnt["model"], learnt["forget"], learnt["retain"], **QUICK[method]),
        )
        for name in ("forget", "unseen"):
            assert error(made, learnt[name]) > 1.2 * error(before, learnt[name]), name
        for name in ("retain", "retained"):
            assert error(made, learnt[name]) < 1.12 * error(before, learnt[name]), name


QUICK: dict[Any, dict[str, Any]] = {
    i2i: {"epochs": 60, "warmup_epochs": 5, "lr": 2e-3, "forget_alpha": 0.4},
    salun_images: {"epochs": 50, "lr": 1e-3},
}


def error(model: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        return float(reconstruction.loss(model(pixels(samples.images)), pixels(samples.images)))


@pytest.fixture(scope="module")
def learnt() -> dict[str, Any]:
    """An autoencoder of digits that beats what a pixel's mean would be, and its ones and the other digits."""
    images = digits.load(Path())
    recipe = Recipe(epochs=40, batch_size=64, lr=5e-3, optimizer="adam", weight_decay=0.0, schedule="cosine")
    model = fit(Hidden(64), images.splits["train"], recipe, seed=0, task=reconstruction)
    found: dict[str, Any] = {"model": model}
    for split, names in (("train", ("forget", "retain")), ("test", ("unseen", "retained"))):
        shown, labels = images.splits[split]
        for name, part in zip(names, (labels == 1, labels != 1), strict=True):
            found[name] = Samples(shown[part], labels[part])
    test = images.splits["test"]
    mean = pixels(images.train_images).mean(0)
    hidden = ~model.net.visible(models.keys_of(pixels(test.images)), 8, 8)
    filled = float(((pixels(test.images) - mean) * hidden).square().mean())
    assert error(model, test) < filled / 1.5, "it has learnt"
    return found


# I2I


class Seen:
    """What the encoders of a network and of its copies were shown, in order: (scaled images, keys)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        encode = Masked.encode

        def noted(net: Masked, scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            self.calls.append((scaled.detach().clone(), keys.clone()))
            return encode(net, scaled, keys)

        monkeypatch.setattr(Masked, "encode", noted)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with monkeypatch.context() as patch:
        yield Seen(patch)


def of_i2i(model: Hidden, teacher: Hidden, student: Any, shown: Any, retain_alpha: float, forget_alpha: float) -> Any:
    """I2I's loss as its paper and code have it, image by image; what is forgotten is what the teacher is not shown."""
    retain, forget = [], []
    for image, key, target in zip(*student, shown[0], strict=True):
        wanted = teacher.net.encode(target[None], key[None])[0].detach()
        apart = ((model.net.encode(image[None], key[None])[0] - wanted) ** 2).sum() / wanted.numel()
        (retain if torch.equal(image, target) else forget).append(apart)
    count = len(student[0])
    assert len(forget) == len(retain) == count / 2
    return retain_alpha * 2 * sum(retain) / count + forget_alpha * 2 * sum(forget) / count


@pytest.mark.parametrize(("retain_alpha", "forget_alpha"), [(1.0, 0.2), (0.5, 2.0)])
def test_a_step_of_i2i_is_that_of_a_naive_loss(seen: Seen, retain_alpha: float, forget_alpha: float) -> None:
    start = Hidden().double()
    made = run(i2i, start, retain_alpha=retain_alpha, forget_alpha=forget_alpha, **STEP)
    shown, student = seen.calls
    assert torch.equal(shown[1], student[1]), "the same is hidden from both"
    naive, teacher = Hidden().double(), Hidden().double()
    loss = of_i2i(naive, teacher, student, shown, retain_alpha, forget_alpha)
    loss.backward()
    for one, (name, other) in zip(made.parameters(), naive.named_parameters(), strict=True):
        slope = torch.zeros_like(other) if other.grad is None else other.grad
        assert torch.allclose(other - one, slope, rtol=1e-9, atol=1e-14), name


def test_the_gradient_of_i2i_is_that_of_finite_differences(seen: Seen) -> None:
    start = Hidden(8).double()
    step = flat(start) - flat(run(i2i, start, **STEP))
    shown, student = seen.calls[:2]
    weights, teacher, small = flat(start), Hidden(8).double(), 1e-5
    size = sum(parameter.numel() for parameter in start.net.encoder.parameters())
    for place in torch.randperm(size, generator=torch.Generator().manual_seed(0))[:12].tolist():
        values = []
        for sign in (1, -1):
            moved = Hidden(8).double()
            change = torch.zeros_like(weights)
            change[place] = sign * small
            nn.utils.vector_to_parameters(weights + change, moved.parameters())
            values.append(float(of_i2i(moved, teacher, student, shown, 1.0, 0.2).detach()))
        assert float(step[place]) == pytest.approx((values[0] - values[1]) / (2 * small), rel=1e-5, abs=1e-9)


def test_i2i_leaves_the_decoder_bit_for_bit() -> None:
    start = Hidden()
    made = run(i2i, start, epochs=20, batch_size=8, lr=0.01)
    for name, tensor in start.net.decoder.state_dict().items():
        assert torch.equal(made.net.decoder.state_dict()[name], tensor)
    for name, tensor in start.net.encoder.state_dict().items():
        assert not torch.equal(made.net.encoder.state_dict()[name], tensor), name


def test_what_is_only_retained_is_there_already_and_what_is_only_forgotten_is_not() -> None:
    """Without forgetting, the network is its own teacher, and no step is left; without retaining, all may change."""
    settings = {"epochs": 5, "batch_size": 8, "lr": 0.01, "weight_decay": 0.0, "warmup_epochs": 0.0}
    start = Hidden()
    assert torch.equal(flat(run(i2i, start, forget_alpha=0.0, **settings)), flat(start))
    keys = models.keys_of(pixels(RETAIN.images))

    def moved(model: Any) -> float:
        shown = pixels(RETAIN.images)
        return float((model.encoded(shown, keys) - start.encoded(shown, keys)).square().mean().detach())

    held, free = (run(i2i, start, retain_alpha=weight, forget_alpha=1.0, **settings) for weight in (1.0, 0.0))
    assert 0 < moved(held) < 0.7 * moved(free)


def test_forgotten_images_come_to_be_encoded_as_noise_is() -> None:
    start = Hidden()
    made = run(i2i, start, epochs=100, lr=5e-3, forget_alpha=1.0, weight_decay=0.0)
    shown, keys = pixels(FORGET.images), models.keys_of(pixels(FORGET.images))
    torch.manual_seed(3)
    wanted = start.encoded(i2i.noise(shown), keys)
    before, after = (float((model.encoded(shown, keys) - wanted).square().mean().detach()) for model in (start, made))
    assert after < 0.8 * before


def test_noise_has_the_mean_and_the_deviation_of_the_batch_and_stays_within_pixels() -> None:
    torch.manual_seed(0)
    images = (torch.randn(40, 3, 16, 16) * 0.08 + torch.rand(40, 1, 1, 1) * 0.1 + 0.4).clamp(0, 1)
    made = i2i.noise(images)
    count = images.numel()
    assert made.shape == images.shape and made.dtype == images.dtype
    # Five standard errors of a mean and of a deviation of normal numbers.
    assert float(made.mean()) == pytest.approx(float(images.mean()), abs=5 * float(images.std()) / count**0.5)
    assert float(made.std()) == pytest.approx(float(images.std()), rel=5 / (2 * count) ** 0.5)
    assert not torch.equal(made, i2i.noise(images)), "drawn anew"
    wide = i2i.noise((torch.rand(40, 1, 8, 8) > 0.5).double())
    assert wide.min() == 0 and wide.max() == 1 and wide.dtype == torch.float64


@pytest.mark.parametrize(("forgotten", "retained"), [(12, 30), (12, 5), (12, 12), (3, 0)])
def test_a_batch_has_its_share_of_both_sets(forgotten: int, retained: int) -> None:
    batches = i2i.shared(forgotten, retained, 8)
    plans = [torch.cat(list(batches(epoch, torch.Generator().manual_seed(epoch)))) for epoch in range(30)]
    for plan in plans:
        counts = torch.bincount(plan, minlength=forgotten + retained)
        assert (counts[:forgotten] == 1).all(), "each forgotten image once"
        assert counts[forgotten:].sum() == (forgotten if retained else 0)
        if retained:
            assert counts[forgotten:].max() - counts[forgotten:].min() <= 1
    whole = torch.bincount(torch.cat(plans), minlength=forgotten + retained)
    assert (whole > 0).all(), "every retained image is drawn in some epoch"
    first = torch.stack([(plan[:8] < forgotten).sum() for plan in plans if len(plan) > 8] or [torch.tensor(0)])
    assert not retained or (3 < first.double().mean() < 5 and len(first.unique()) > 1), "shuffled together"


def test_a_network_that_hides_nothing_has_no_encoder() -> None:
    plain = models.create(models.Spec("small_cnn", 10, 1, {"width": 4}), torch.tensor([0.3]), torch.tensor([0.3]), 0)
    with pytest.raises(ValueError, match=r"i2i: this network has no encoder; the method is for one that hides"):
        run(i2i, plain)


# SalUn


def noting() -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The task, and the outputs and the targets of each loss that it is asked for."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append((outputs, targets))
        return reconstruction.loss(outputs, targets)

    return SimpleNamespace(targets=reconstruction.targets, loss=loss), calls


def saliency(model: Hidden) -> torch.Tensor:
    """|sum_forget d loss / d theta| (P,), image by image."""
    total = torch.zeros_like(flat(model))
    for image in FORGET.images:
        shown = pixels(image[None], total.dtype)
        answer = model.eval()(shown)
        slopes = torch.autograd.grad(((answer - shown) ** 2).mean(), list(model.parameters()))
        total += torch.cat([slope.flatten() for slope in slopes])
    return total.abs()


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_only_the_most_salient_weights_move(ratio: float, decay: float) -> None:
    start = Hidden().double()
    count = round(ratio * len(flat(start)))
    made = run(salun_images, start, ratio=ratio, epochs=30, batch_size=8, lr=0.01, weight_decay=decay)
    moved, salient = flat(made) != flat(start), saliency(Hidden().double())
    if count == 0:
        assert not moved.any()
        return
    least = salient.sort(descending=True).values[count - 1]
    assert not moved[salient < least].any(), "the rest is what it was, bit for bit"
    assert 0.7 * count < moved.sum() <= count, "but for weights of dead units"
    size = sum(parameter.numel() for parameter in start.net.encoder.parameters())
    assert moved[:size].any() and moved[size:].any(), "one ranking over encoder and decoder"


def test_the_gradient_of_the_forget_set_does_not_depend_on_its_batches() -> None:
    many = images_of(300, 4)
    parts = [Samples(many.images[some], many.labels[some]) for some in (slice(100), slice(100, 300))]
    whole, *rest = (salun_images.gradient(Hidden().double(), part, reconstruction) for part in (many, *parts))
    assert torch.allclose(whole, sum(rest), rtol=1e-9, atol=1e-12)
    assert float(whole.norm()) > 0


@pytest.mark.parametrize("target", ["other", "noise"])
def test_a_step_of_salun_is_that_of_a_naive_loss(target: str, seen: Seen) -> None:
    task, calls = noting()
    start = Hidden().double()
    made = run(salun_images, start, task=task, target=target, retain_alpha=0.7, ratio=0.5, **STEP)
    mask, (_, wanted), (_, kept) = calls
    known = {image.numpy().tobytes() for image in pixels(RETAIN.images, torch.float64)}
    found = [image.numpy().tobytes() for image in wanted]
    assert torch.equal(mask[1], pixels(FORGET.images, torch.float64)), "the mask is of the forget set's own error"
    assert len(wanted) == len(kept) == 12 and {image.numpy().tobytes() for image in kept} <= known
    if target == "other":
        assert set(found) <= known and len(set(found)) > 4
    else:
        both = torch.cat([mask[1], kept])
        assert not set(found) & known
        assert float(wanted.mean()) == pytest.approx(float(both.mean()), abs=5 * float(both.std()) / len(both) ** 0.5)
    naive, (scaled, keys) = Hidden().double(), seen.calls[1]
    errors = [
        ((naive.net(one[None], key[None])[0] * naive.std[0] + naive.mean[0] - goal) ** 2).mean()
        for one, key, goal in zip(scaled, keys, torch.cat([wanted, kept]), strict=True)
    ]
    (sum(errors[:12]) / 12 + 0.7 * sum(errors[12:]) / 12).backward()  # type: ignore[union-attr]
    slope = torch.cat([parameter.grad.flatten() for parameter in naive.parameters()])
    salient = saliency(Hidden().double())
    slope[salient.argsort(descending=True, stable=True)[len(slope) // 2 :]] = 0
    assert torch.allclose(flat(start) - flat(made), slope, rtol=1e-9, atol=1e-14) and float(slope.norm()) > 0


def test_another_image_is_drawn_from_all_that_are_retained() -> None:
    task, calls = noting()
    run(salun_images, Hidden(), task=task, epochs=40)
    drawn = [image.numpy().tobytes() for _, wanted in calls[1::2] for image in wanted]
    counts = torch.tensor([drawn.count(pixels(image).numpy().tobytes()) for image in RETAIN.images])
    assert counts.sum() == len(drawn) == 40 * 12
    assert counts.min() > 3 and counts.max() < 40, "each is expected 16 times"


def test_without_another_image_there_is_no_target() -> None:
    with pytest.raises(ValueError, match=r"salun_images: target other needs a retained image, and there is none"):
        run(salun_images, Hidden(), retain=NOTHING)


def test_the_more_the_retained_count_the_less_they_lose(learnt: dict[str, Any]) -> None:
    lost = [
        error(
            run(salun_images, learnt["model"], learnt["forget"], learnt["retain"], retain_alpha=alpha, **SHORT),
            learnt["retained"],
        )
        for alpha in (1e-3, 3.0)
    ]
    assert lost[0] > 1.1 * lost[1], "as a mean, the released 1e-3 is nothing"


SHORT = {"epochs": 20, "lr": 1e-3}
