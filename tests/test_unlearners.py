"""The contract of every file in unlearners/, and what each method's paper says of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest
import torch

from palimpsest import models
from palimpsest.data import Samples, pixels
from palimpsest.pipeline import method
from palimpsest.tasks import reconstruction
from palimpsest.train import Recipe
from palimpsest.unlearners import Base, Step, gathered, random_label, unlearner

# Those that a classifier can have; `test_i2i` holds the others to the same contract.
METHODS = [
    name for name, file in method.files("unlearners").items()
    if "classification" in (method.literal(file, "TASKS") or ("classification",))
]  # fmt: skip
CLASSES = 4


def samples(count: int, seed: int = 0) -> Samples:
    """Images (count, 1, 8, 8) whose class shows as a bright quadrant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(60, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[index, :, row : row + 4, column : column + 4] += 150
    return Samples(images, labels)


def tiny_model(seed: int = 1) -> models.Network:
    spec = models.Spec("small_cnn", CLASSES, 1, {"width": 4, "hidden": 8})
    return models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), seed)


RECIPE = Recipe(epochs=2, batch_size=8, lr=0.01)
FORGET = Samples(*(tensor[:8] for tensor in samples(40)))
RETAIN = Samples(*(tensor[8:] for tensor in samples(40)))
NOTHING = Samples(*(tensor[:0] for tensor in samples(40)))
Kept = Mapping[str, torch.Tensor] | None


def in_type(part: Samples, dtype: torch.dtype) -> Samples:
    """The samples as a network of another type would be given replacements: floats of that type."""
    return Samples(pixels(part.images, dtype), part.labels)


def start(name: str, model: models.Network | None = None, data: Samples | None = None) -> tuple[models.Network, Kept]:
    """What the method unlearns on: any network, or what its own base training made of one and kept."""
    module = import_module(f"palimpsest.unlearners.{name}")
    model, data = model or tiny_model(), data or samples(40)
    if not hasattr(module, "train_base"):
        return model, None
    at = Base(seed=3, recipe=RECIPE, requests=[torch.arange(len(FORGET.labels)), torch.arange(1)])
    return module.train_base(model, data, at)


def served(
    method: Any,
    model: Any,
    forget: Samples,
    retain: Samples,
    *,
    seed: int = 0,
    recipe: Recipe = RECIPE,
    indices: torch.Tensor | None = None,
    settings: Mapping[str, Any] | None = None,
    **given: Any,
) -> models.Network:
    """What a method's module makes of one request; what is given goes into the step or, by name, into its settings."""
    of_step = {name: given.pop(name) for name in set(given) & set(Step.__dataclass_fields__)}
    own = given if settings is None else {**given, "settings": settings}
    where = torch.arange(len(forget.labels)) if indices is None else indices
    at = Step(seed, recipe, indices=where, **of_step)
    return method.unlearn(model, forget, retain, at, **gathered(method.unlearn, own)).network


def run(name: str, model: models.Network, forget: Samples, retain: Samples = RETAIN, **given: Any) -> models.Network:
    """The same by the method's name, with all that any of them may want."""
    there = {"initial": lambda: models.fresh(model, 2), "splits": {"spare": samples(40, seed=9)}, "original": model}
    return served(
        import_module(f"palimpsest.unlearners.{name}"), model, forget, retain, **{"seed": 7, **there, **given}
    )


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def replaces(name: str) -> bool:
    """Whether the method says that it can put replacements in the place of samples."""
    return "@unlearner(replaces=True)" in inspect.getsource(import_module(f"palimpsest.unlearners.{name}"))


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_same_seed_same_weights(self, name: str) -> None:
        first, second = (run(name, model, FORGET, kept=kept) for model, kept in (start(name), start(name)))
        assert torch.equal(flat(first), flat(second))

    def test_inputs_stay_untouched(self, name: str) -> None:
        model, kept = start(name)
        before, forget, retain = flat(model).clone(), FORGET.images.clone(), RETAIN.images.clone()
        kept_before = {key: tensor.clone() for key, tensor in (kept or {}).items()}
        run(name, model, FORGET, kept=kept)
        assert torch.equal(flat(model), before)
        assert all(torch.equal(tensor, kept_before[key]) for key, tensor in (kept or {}).items())
        assert torch.equal(FORGET.images, forget) and torch.equal(RETAIN.images, retain)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_weights_are_finite_of_the_models_type_on_its_device_and_changed(
        self, name: str, dtype: torch.dtype
    ) -> None:
        model, kept = start(name, tiny_model().to(dtype))
        unlearned = run(name, model, FORGET, kept=kept)
        for tensor in unlearned.state_dict().values():
            assert tensor.device == model.mean.device
            assert torch.isfinite(tensor).all() and tensor.dtype == dtype
        assert unlearned.spec == model.spec and not unlearned.training
        assert not torch.equal(flat(unlearned), flat(model))

    def test_empty_forget_set_gives_the_original_weights(self, name: str) -> None:
        model, kept = start(name)
        assert torch.equal(flat(run(name, model, NOTHING, kept=kept)), flat(model))

    def test_one_forget_image_is_enough_even_for_batch_normalisation(self, name: str) -> None:
        # Eight pixels shrink to one in the last blocks, whose BatchNorm refuses to train on a batch of one.
        spec = models.Spec("resnet", CLASSES, 1, {"width": 2})
        data = samples(17)
        one, rest = Samples(*(tensor[:1] for tensor in data)), Samples(*(tensor[1:] for tensor in data))
        model, kept = start(name, models.create(spec, torch.tensor([0.3]), torch.tensor([0.3]), 1), data)
        batch = {"epochs": 1, "batch_size": 8, "lr": 0.01}
        settings = batch if "training" in inspect.signature(unlearn_of(name)).parameters else {}
        unlearned = run(name, model, one, kept=kept, retain=rest, **settings)
        assert all(torch.isfinite(tensor).all() for tensor in unlearned.state_dict().values())
        assert not torch.equal(flat(unlearned), flat(model))

    def test_a_step_out_of_the_numbers_is_a_divergence_and_no_result(self, name: str) -> None:
        model, kept = start(name)
        lost = Samples(FORGET.images.float() / 255, FORGET.labels)
        lost.images[0] = float("nan")
        known = Samples(RETAIN.images.float() / 255, RETAIN.labels)
        known.images[0] = float("nan")
        with pytest.raises(models.Diverged):
            run(name, model, lost, kept=kept, retain=known)

    def test_replacements_count_or_are_refused_and_bytes_and_floats_are_one_scale(self, name: str) -> None:
        model, kept = start(name)
        put = Samples(255 - FORGET.images, (FORGET.labels + 1) % CLASSES)
        if not replaces(name):
            with pytest.raises(ValueError, match=f"{name}: it removes samples and cannot"):
                run(name, model, FORGET, kept=kept, replacement=put)
            return
        removed, replaced = (flat(run(name, model, FORGET, kept=kept, replacement=new)) for new in (None, put))
        assert not torch.equal(removed, replaced)
        for dtype in (torch.float32, torch.float64):
            floats = in_type(put, dtype)
            assert torch.equal(flat(run(name, model, FORGET, kept=kept, replacement=floats)), replaced)
        with pytest.raises(ValueError, match=f"{name}: 32 samples cannot replace 8"):
            run(name, model, FORGET, kept=kept, replacement=RETAIN)

    def test_unknown_keyword_is_refused(self, name: str) -> None:
        with pytest.raises(TypeError, match="learning_rat"):
            unlearn_of(name)(tiny_model(), FORGET, RETAIN, Step(0, RECIPE), learning_rat=1)


def test_weights_that_a_method_leaves_out_of_the_numbers_are_a_divergence_and_no_result() -> None:
    @unlearner
    def unlearn(model: models.Network, forget: Samples, retain: Samples, at: Step) -> models.Network:
        with torch.no_grad():
            next(model.parameters())[0] = float("inf")
        return model

    with pytest.raises(models.Diverged, match="the weights after test_unlearners are not finite"):
        unlearn(tiny_model(), FORGET, RETAIN, Step(0, RECIPE))


def unlearn_of(name: str) -> Any:
    return import_module(f"palimpsest.unlearners.{name}").unlearn


def test_a_value_outside_its_range_is_refused_in_one_sentence_before_anything_is_done() -> None:
    for name, wrong, sentence in (
        ("salun", {"ratio": 5}, "salun: ratio cannot be 5; it takes a number in [0, 1]"),
        ("salun", {"variant": "correct"}, "salun: variant cannot be 'correct'; it takes corrected, as_released"),
        ("second_order", {"scale": 0}, "cannot be 0; it takes a number in (0, inf) or none"),
        ("adversarial", {"epsilon": "-8/255"}, "epsilon cannot be '-8/255'; it takes a fraction as text in [0, 1]"),
        ("negative_gradient", {"stop_at": float("nan")}, "stop_at cannot be nan"),
    ):
        with pytest.raises(ValueError) as refused:
            run(name, tiny_model(), NOTHING, **wrong)
        assert sentence in str(refused.value)
    with pytest.raises(ValueError, match=r"recipe: momentum cannot be 1\.5; it takes a number in"):
        gathered(unlearn_of("finetune"), {"momentum": 1.5})


def test_plain_settings_go_into_the_training_over_its_defaults() -> None:
    salun = unlearn_of("salun")
    found = gathered(salun, {"ratio": 0.3, "lr": 0.5, "schedule": "cosine"})
    assert found == {
        "ratio": 0.3,
        "training": Recipe(epochs=10, lr=0.5, batch_size=256, momentum=0.9, weight_decay=5e-4, schedule="cosine"),
    }
    assert gathered(salun, {"ratio": 0.3}) == {"ratio": 0.3}
    with pytest.raises(ValueError, match="salun has no setting 'learning_rate'; it takes ratio, variant, true_label, "):
        gathered(salun, {"learning_rate": 1})
    with pytest.raises(ValueError, match="retrain has no setting 'lr'; it takes none"):
        gathered(unlearn_of("retrain"), {"lr": 1})


def test_training_on_keeps_augmentation_and_precision_unless_told() -> None:
    base = Recipe(9, 8, 0.1, augment=("flip",), precision="bfloat16", schedule="cosine")
    training = Recipe(2, 4, 0.5)
    assert base.continued(training) == Recipe(2, 4, 0.5, augment=("flip",), precision="bfloat16")
    told = Recipe(2, 4, 0.5, augment=(), precision="float32")
    assert base.continued(told) == told


def test_retrain_never_sees_the_forget_set_nor_the_old_weights() -> None:
    other_images = Samples(255 - FORGET.images, FORGET.labels)
    weights = flat(run("retrain", tiny_model(1), FORGET))
    assert torch.equal(weights, flat(run("retrain", tiny_model(1), other_images)))
    assert torch.equal(weights, flat(run("retrain", tiny_model(2), FORGET)))


def test_finetune_starts_from_the_old_weights_and_never_sees_the_forget_set() -> None:
    other_images = Samples(255 - FORGET.images, FORGET.labels)
    weights = flat(run("finetune", tiny_model(1), FORGET))
    assert torch.equal(weights, flat(run("finetune", tiny_model(1), other_images)))
    assert not torch.equal(weights, flat(run("finetune", tiny_model(2), FORGET)))


def test_random_labels_are_uniform_and_leave_the_true_one_out_only_when_told() -> None:
    truth = torch.arange(40_000) % CLASSES
    generator = torch.Generator().manual_seed(0)
    with_true = random_label.random_labels(truth, CLASSES, generator, true_label=True)
    without = random_label.random_labels(truth, CLASSES, generator, true_label=False)
    assert (with_true == truth).double().mean().item() == pytest.approx(1 / CLASSES, abs=0.01)
    assert not (without == truth).any()
    shares = torch.bincount((without - truth) % CLASSES, minlength=CLASSES).double() / len(truth)
    assert shares[1:].tolist() == pytest.approx([1 / (CLASSES - 1)] * (CLASSES - 1), abs=0.01)


def test_random_label_passes_over_forget_first_and_draws_anew_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def noted(model: models.Network, data: Samples, recipe: Recipe, **hooks: object) -> models.Network:
        seen.update(hooks)
        return model

    monkeypatch.setattr(random_label, "fit", noted)
    training = Recipe(epochs=1, batch_size=8, lr=0.1)
    random_label.unlearn(tiny_model(), FORGET, RETAIN, Step(0, RECIPE), order="forget_first", training=training)
    generator = torch.Generator().manual_seed(0)
    plan = seen["batches"](0, generator)  # type: ignore[operator]
    assert sorted(plan[0].tolist()) == list(range(8)), "the first batch is the forget set"
    assert sorted(torch.cat(plan).tolist()) == list(range(40)), "each image occurs once an epoch"
    labels = torch.cat([FORGET.labels, RETAIN.labels])
    first, second = (seen["relabel"](epoch, generator, labels) for epoch in range(2))  # type: ignore[operator]
    assert not torch.equal(first[:8], second[:8])
    assert torch.equal(first[8:], RETAIN.labels) and torch.equal(second[8:], RETAIN.labels)


class Through(torch.nn.Module):
    """An image (N, 1, 8, 8) through a narrow layer and back: a network without classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(8, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.flatten(1)).view(images.shape)


@pytest.mark.parametrize(("name", "of", "rises"), [("finetune", RETAIN, False), ("negative_gradient", FORGET, True)])
def test_what_trains_on_serves_a_task_without_labels(name: str, of: Samples, rises: bool) -> None:
    def error(model: Any) -> float:
        return float(reconstruction.loss(model(pixels(of.images)), reconstruction.targets(of)).detach())

    method, nobodys = import_module(f"palimpsest.unlearners.{name}"), Samples(FORGET.images, FORGET.labels - 99)
    settings = {"lr": 0.1, "epochs": 3, "batch_size": 8, "weight_decay": 0.0}
    made = served(method, Through(), nobodys, RETAIN, task=reconstruction, **settings)
    assert (error(made) > 1.05 * error(Through())) if rises else (error(made) < 0.95 * error(Through()))


def test_a_step_that_asks_for_nothing_new_goes_on_from_what_is_there() -> None:
    """What is gone already has no place in the training set; the step needs to know what it was, no more."""
    at = Step(7, RECIPE)
    assert at.indices is None
    found = unlearn_of("finetune")(tiny_model(), FORGET, RETAIN, at).network
    assert torch.equal(flat(found), flat(run("finetune", tiny_model(), FORGET)))


def test_replacements_go_where_their_samples_stood_in_whatever_order_they_come() -> None:
    whole, order = samples(40), torch.tensor([30, 2, 17])
    stays = torch.ones(40, dtype=torch.bool)
    stays[order] = False
    put = Samples(255 - whole.images[order], (whole.labels[order] + 1) % CLASSES)
    at = Step(0, RECIPE, indices=order, replacement=put)
    found = at.remaining(Samples(whole.images[stays], whole.labels[stays]))
    for place in range(40):
        one, row = (put, order.tolist().index(place)) if place in order.tolist() else (whole, place)
        assert torch.equal(found.images[place], one.images[row]) and found.labels[place] == one.labels[row]
