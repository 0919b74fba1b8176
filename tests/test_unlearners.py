"""The contract of every file in unlearners/, and what each method's paper says of it."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from palimpsest import models
from palimpsest.data import Samples
from palimpsest.pipeline import method
from palimpsest.train import Recipe
from palimpsest.unlearners import random_label

METHODS = method.names("unlearners")
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
Kept = dict[str, torch.Tensor] | None


def start(name: str) -> tuple[models.Network, Kept]:
    """What the method unlearns on: any network, or what its own base training made of one and kept."""
    module = import_module(f"palimpsest.unlearners.{name}")
    if not hasattr(module, "train_base"):
        return tiny_model(), None
    filled = {"seed": 3, "recipe": RECIPE, "checkpoint": None, "requests": [torch.arange(len(FORGET.labels))]}
    wanted = {key: value for key, value in filled.items() if key in inspect.signature(module.train_base).parameters}
    return module.train_base(tiny_model(), samples(40), **wanted)


def run(name: str, model: models.Network, forget: Samples, seed: int = 7, kept: Kept = None) -> models.Network:
    unlearn = import_module(f"palimpsest.unlearners.{name}").unlearn
    filled = {
        "seed": seed,
        "recipe": RECIPE,
        "checkpoint": None,
        "initial": tiny_model(2),
        "replacement": None,
        "indices": torch.arange(len(forget.labels)),
        "kept": kept,
        "penalty": None,
    }
    wanted = {key: value for key, value in filled.items() if key in method.keywords("unlearners", name)}
    return unlearn(model, forget, RETAIN, **wanted)


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_signature_is_model_forget_retain_and_keywords_with_defaults(self, name: str) -> None:
        parameters = inspect.signature(import_module(f"palimpsest.unlearners.{name}").unlearn).parameters
        assert list(parameters)[:3] == ["model", "forget", "retain"]
        for parameter in list(parameters.values())[3:]:
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter
            if parameter.name not in method.FILLED_IN:
                assert parameter.default is not parameter.empty, f"{parameter.name} needs the paper's value as default"

    def test_module_and_function_say_what_and_whence(self, name: str) -> None:
        module = import_module(f"palimpsest.unlearners.{name}")
        assert module.__doc__ and module.unlearn.__doc__

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
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_weights_are_finite_float32_on_the_models_device_and_changed(self, name: str) -> None:
        model, kept = start(name)
        unlearned = run(name, model, FORGET, kept=kept)
        for tensor in unlearned.state_dict().values():
            assert tensor.device == model.mean.device
            assert torch.isfinite(tensor).all() and tensor.dtype == torch.float32
        assert unlearned.spec == model.spec
        assert not torch.equal(flat(unlearned), flat(model))

    def test_empty_forget_set_gives_the_original_weights(self, name: str) -> None:
        model, kept = start(name)
        assert torch.equal(flat(run(name, model, NOTHING, kept=kept)), flat(model))

    def test_unknown_keyword_is_refused(self, name: str) -> None:
        with pytest.raises(TypeError, match="learning_rat"):
            import_module(f"palimpsest.unlearners.{name}").unlearn(tiny_model(), FORGET, RETAIN, learning_rat=1)


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
    monkeypatch.setattr(random_label, "fit", lambda model, images, labels, recipe, **hooks: seen.update(hooks))
    random_label.unlearn(tiny_model(), FORGET, RETAIN, seed=0, recipe=RECIPE, batch_size=8, order="forget_first")
    generator = torch.Generator().manual_seed(0)
    plan = seen["batches"](0, generator)  # type: ignore[operator]
    assert sorted(plan[0].tolist()) == list(range(8)), "the first batch is the forget set"
    assert sorted(torch.cat(plan).tolist()) == list(range(40)), "each image occurs once an epoch"
    labels = torch.cat([FORGET.labels, RETAIN.labels])
    first, second = (seen["relabel"](epoch, generator, labels) for epoch in range(2))  # type: ignore[operator]
    assert not torch.equal(first[:8], second[:8])
    assert torch.equal(first[8:], RETAIN.labels) and torch.equal(second[8:], RETAIN.labels)
