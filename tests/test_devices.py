"""Everything that a job runs on a card, run on one, or on a pretended one: nothing is left on the wrong device."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from card import REAL, DeviceError, card
from test_unlearners import CLASSES, FORGET, METHODS, RECIPE, RETAIN, flat, replaces, samples, tiny_model

from palimpsest import data, measure, models, predict, train, unlearners
from palimpsest.attacks.on_images import OnImages, aimed_at, uma
from palimpsest.attacks.on_labels import OnLabels
from palimpsest.data import Samples
from palimpsest.pipeline import job, method
from palimpsest.unlearners import heal

SHAPE = tuple(FORGET.images.shape[1:])
EVERYTHING = Samples(*map(torch.cat, zip(FORGET, RETAIN, strict=True)))


def moved(parts: Samples, device: torch.device | str) -> Samples:
    return Samples(*(part.to(device) for part in parts))


def agree(there: torch.Tensor, here: torch.Tensor) -> bool:
    """Pretended, the same operations ran in the same order: equal to the bit. A real card rounds in its own way."""
    there = there.cpu()
    return bool(there.isfinite().all()) if REAL else torch.equal(there, here)


class TestThePretence:
    def test_what_a_card_refuses_is_refused(self) -> None:
        with card() as device:
            here, there = torch.ones(3), torch.ones(3, device=device)
            index = torch.tensor([0, 2])
            for wrong in (
                lambda: here + there,
                lambda: torch.cat([here, there]),
                lambda: here[index.to(device)],
                lambda: torch.rand(3, generator=torch.Generator(), device=device),
                lambda: there.uniform_(generator=torch.Generator()),
                lambda: torch.nn.Linear(3, 2)(there),
                lambda: there.add_(here),
            ):
                with pytest.raises((DeviceError, RuntimeError)):
                    wrong()
            with pytest.raises((DeviceError, TypeError)):
                there.numpy()

    def test_what_a_card_admits_works(self) -> None:
        with card() as device:
            there = torch.arange(3.0, device=device)
            assert (there * torch.tensor(2.0))[torch.tensor([0, 2])].tolist() == [0.0, 4.0]
            assert there.cpu().numpy().sum() == there.sum().item() == 3
            there.copy_(torch.zeros(3))
            assert not there.any()
            layer = torch.nn.Linear(3, 2).to(device)
            layer(there).sum().backward()
            assert layer.weight.grad is not None and layer.weight.grad.device == there.device


@pytest.mark.parametrize(
    ("name", "changed"),
    [(name, changed) for name in METHODS for changed in (False, True) if not changed or replaces(name)],
)
def test_unlearner_runs_on_a_card(name: str, changed: bool) -> None:
    def run(device: torch.device | str) -> torch.Tensor:
        module = import_module(f"palimpsest.unlearners.{name}")
        forget, retain, everything = (moved(part, device) for part in (FORGET, RETAIN, EVERYTHING))
        indices = torch.arange(len(forget.labels), device=device)
        base, kept = tiny_model().to(device), None
        if hasattr(module, "train_base"):
            others = [indices, torch.tensor([3, 20, 30], device=device)]
            base, kept = module.train_base(base, everything, unlearners.Base(7, RECIPE, requests=others))
            assert all(tensor.device == base.mean.device for tensor in kept.values())
        put = Samples(255 - forget.images, forget.labels) if changed else None
        initial = tiny_model(2).to(device)
        at = unlearners.Step(
            7,
            RECIPE,
            indices=indices,
            kept=kept,
            initial=lambda: initial,
            replacement=put,
            splits={"spare": everything},
        )
        made = module.unlearn(base, forget, retain, at)
        assert all(tensor.device == base.mean.device for tensor in made.network.state_dict().values())
        assert all(tensor.device == base.mean.device for tensor in made.kept.values())
        return flat(made.network)

    here = run("cpu")
    with card() as device:
        assert agree(run(device), here)


@pytest.mark.parametrize("data", ["raw_mahalanobis", "feature_cosine", "feature_mahalanobis", "random"])
def test_spares_are_found_on_a_card(data: str) -> None:
    def run(device: torch.device | str) -> unlearners.Unlearned:
        model, forget, retain = tiny_model().to(device), moved(FORGET, device), moved(RETAIN, device)
        at = unlearners.Step(7, RECIPE, splits={"spare": moved(EVERYTHING, device)}, original=model)
        return heal.unlearn(model, forget, retain, at, data=data)

    here = run("cpu")
    with card() as device:
        there = run(device)
        assert there.kept["twins"].tolist() == here.kept["twins"].tolist()
        assert agree(there.kept["distances"], here.kept["distances"]) and agree(flat(there.network), flat(here.network))


UMA = {"epsilons": ["8/255", "16/255"], "steps": 2}


@pytest.mark.parametrize(
    "keywords",
    [{}, {"target": "wrong_label"}, {"loss": "bce", "start": "image"}, {"epsilons": ["none", "8/255"]}],
    ids=str,
)
def test_uma_runs_on_a_card(keywords: dict[str, Any]) -> None:
    here = uma.attack(OnImages(tiny_model(1), tiny_model(2), FORGET, 3), **{**UMA, **keywords})
    with card() as device:
        at = OnImages(tiny_model(1).to(device), tiny_model(2).to(device), moved(FORGET, device), 3)
        there = uma.attack(at, **{**UMA, **keywords})
        for one, other in zip(there, here, strict=True):
            assert agree(one, other)


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("inversion_black_box", {"population": 6, "generations": 3, "elites": 2}),
        ("inversion_white_box", {"steps": 2, "restarts": 2}),
        ("inversion_white_box", {"steps": 2, "restarts": 2, "space": "pixels", "clamp": True}),
        ("label_leakage", {"subsets": 2, "subset_size": 4, "batch_size": 2, "epochs": 2}),
        ("label_leakage", {"subsets": 2, "subset_size": 4, "epochs": 1, "head_init": "server"}),
        ("label_leakage", {"subsets": 2, "subset_size": 4, "epochs": 1, "head_init": "zero"}),
    ],
    ids=str,
)
def test_attack_on_labels_runs_on_a_card(name: str, keywords: dict[str, Any]) -> None:
    module = import_module(f"palimpsest.attacks.on_labels.{name}")

    def run(device: torch.device | str) -> dict[str, torch.Tensor]:
        server = getattr(module, "query_of", lambda server: server)(tiny_model().to(device))
        at = OnLabels(server, SHAPE, CLASSES, 3, own_samples=moved(EVERYTHING, device), device=device)
        made = module.attack(at, **keywords)
        return {key: torch.as_tensor(value) for key, value in made._asdict().items()}

    here = run("cpu")
    with card() as device:
        for key, tensor in run(device).items():
            assert agree(tensor, here[key]), key


@pytest.mark.parametrize("name", method.files("defenses"))
def test_defense_runs_on_a_card(name: str) -> None:
    module = import_module(f"palimpsest.defenses.{name}")

    def run(device: torch.device | str) -> torch.Tensor:
        images = moved(FORGET, device).images
        if hasattr(module, "prepare"):
            kept = module.prepare(moved(RETAIN, device), 3, width=4, steps=2, batch_size=4)
            return module.purify(images, kept)
        return module.purify(images)

    here = run("cpu")
    with card() as device:
        made = run(device)
        assert made.device == device and agree(made, here)


def test_training_with_everything_on_runs_and_resumes_on_a_card(tmp_path: Path) -> None:
    recipe = train.Recipe(epochs=2, batch_size=8, lr=0.01, optimizer="adam", augment=("crop", "flip"))
    checkpoint = train.Checkpoint(tmp_path / "resume", "key", seconds=0.0)

    def run(device: torch.device | str, epochs: int) -> torch.Tensor:
        part = train.Recipe(**{**vars(recipe), "epochs": epochs})
        return flat(train.fit(tiny_model().to(device), moved(RETAIN, device), part, seed=3, checkpoint=checkpoint))

    here = run("cpu", 2)
    checkpoint.path.unlink()

    class Killed(Exception):
        pass

    def die(model: torch.nn.Module, batch: train.Batch) -> None:
        if batch.epoch:
            raise Killed

    with card() as device:
        with pytest.raises(Killed):
            train.fit(
                tiny_model().to(device), moved(RETAIN, device), recipe, seed=3, checkpoint=checkpoint, after_step=die
            )
        assert checkpoint.path.is_file()
        assert agree(run(device, 2), here)


def test_everything_is_predicted_on_a_card_and_measured_off_it() -> None:
    images = data.Images.of(tuple("abcd"), train=EVERYTHING, test=samples(12, seed=1))
    gone = EVERYTHING.labels == 0
    forget, retain = (Samples(EVERYTHING.images[part], EVERYTHING.labels[part]) for part in (gone, ~gone))
    purify = import_module("palimpsest.defenses.median").purify

    def run(device: torch.device | str) -> predict.Predicted:
        there, known, kept = images.to(device), moved(forget, device), moved(retain, device)
        model, original = tiny_model(1).to(device), tiny_model(2).to(device)
        aims = {on: aimed_at(on, there, known, kept, seed=5) for on in ("forget", "unseen")}
        attacked = {
            on: predict.Attacked(
                on=on, epsilons=tuple(UMA["epsilons"]), clean=aim.images, labels=aim.labels,
                **uma.attack(OnImages(model, original, aim, 3), **UMA)._asdict(),
            )
            for on, aim in aims.items()
        }  # fmt: skip
        return predict.outputs(model, there, known, kept, attacked, {"median": purify}, original)

    here = run("cpu")
    with card() as device:
        found = run(device)
    assert all(tensor.device.type == "cpu" for tensor in found.tensors.values()) and found.header == here.header
    rows, same = (list(measure.measure({0: one})) for one in (found, here))
    assert [row["metric"] for row in rows] == [row["metric"] for row in same]
    if not REAL:
        assert rows == same


def test_a_network_goes_to_a_file_and_comes_back(tmp_path: Path) -> None:
    with card() as device:
        models.save({0: tiny_model().to(device)}, tmp_path / "model.safetensors", {0: {}})
        assert agree(flat(models.load(tmp_path / "model.safetensors", 0).to(device)), flat(tiny_model()))
        assert agree(flat(models.fresh(tiny_model(3).to(device), seed=1)), flat(tiny_model(1)))


def test_channel_statistics_and_digest_do_not_ask_where_images_lie() -> None:
    images = data.Images.of(tuple("abcd"), train=EVERYTHING, test=samples(12, seed=1))
    with card() as device:
        there = images.to(device)
        assert there.digest == images.digest
        for one, other in zip(
            models.channel_statistics(there.train_images), models.channel_statistics(images.train_images), strict=True
        ):
            assert agree(one, other)


def test_the_record_says_what_float32_meant_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    facts = job._usage(1.0)
    assert facts["device"] != "cpu" and facts["gpu_peak_mb"] >= 0
    assert facts["tf32"] == {"convolutions": True, "matrix_products": False}, "PyTorch's defaults"
