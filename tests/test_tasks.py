"""The contract of every file in tasks/; and a network that has no classes, through every stage that a classifier goes.

Its network, an autoencoder, is planted: a file of models/ and a line of the configuration.
"""

from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_workflow import snakemake
from torch import nn

from palimpsest import families, measure, predict
from palimpsest.attacks.on_images import OnImages, uma
from palimpsest.data import Samples, digits, pixels
from palimpsest.defenses import median
from palimpsest.pipeline import configuration, method
from palimpsest.pipeline.cells import Plan, Run
from palimpsest.pipeline.errors import ConfigError
from palimpsest.report import checks
from palimpsest.tasks import classification, reconstruction
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Step, finetune, negative_gradient

ROOT = Path(__file__).parents[1]

DATA = Samples(torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3)
OUTPUTS = {"classification": (6, 3), "reconstruction": (6, 1, 4, 4)}


def draw(name: str, seed: int = 0) -> torch.Tensor:
    return torch.rand(OUTPUTS[name], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", method.files("tasks"))
class TestContract:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_loss_is_a_scalar_answers_and_distances_are_by_sample(self, name: str, dtype: torch.dtype) -> None:
        task, outputs = import_module(f"palimpsest.tasks.{name}"), draw(name).to(dtype)
        loss = task.loss(outputs, task.targets(DATA))
        assert loss.shape == () and loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        answers = task.answer(outputs)
        assert len(answers) == 6 and answers.dtype == torch.float32 and answers.min() >= 0 and answers.max() <= 1
        for kind in task.DISTANCES:
            far, near = task.distance(outputs, draw(name, 1).to(dtype), kind), task.distance(outputs, outputs, kind)
            assert far.shape == (6,) and (far >= near).all()

    @pytest.mark.parametrize("brief", [True, False])
    def test_what_is_kept_of_answers_is_by_sample_and_the_same_in_parts(self, name: str, brief: bool) -> None:
        task = import_module(f"palimpsest.tasks.{name}")
        answers, aimed = task.answer(draw(name)), task.decided(draw(name, 1))
        assert task.decided(answers).shape == task.targets(DATA).shape
        whole = task.kept(answers, DATA, aimed, brief)
        assert all(len(tensor) == 6 for tensor in whole.values())
        assert whole.keys() > task.kept(answers, DATA, None, brief).keys(), "of an attack there is more to say"
        per_sample = sum(tensor[0].numel() for tensor in whole.values())
        assert not brief or per_sample <= 3, "a large set fills no disk"
        parts = [
            task.kept(answers[some], Samples(DATA.images[some], DATA.labels[some]), aimed[some], brief)
            for some in (slice(4), slice(4, 6))
        ]
        for key, tensor in whole.items():
            assert torch.equal(tensor, torch.cat([part[key] for part in parts]))

    def test_another_distance_is_refused(self, name: str) -> None:
        task = import_module(f"palimpsest.tasks.{name}")
        with pytest.raises(ValueError, match=f"{name}: distance cannot be 'l7'; it takes {', '.join(task.DISTANCES)}"):
            task.distance(draw(name), draw(name), "l7")


def test_classification_measures_by_the_softmax() -> None:
    outputs, wanted = draw("classification"), draw("classification", 1)
    p, q = wanted.softmax(1), outputs.softmax(1)
    for kind, expected in (
        ("kl", (p * (p / q).log()).sum(1)),
        ("mse", ((outputs - wanted) ** 2).mean(1)),
        ("bce", -(p * q.log() + (1 - p) * (1 - q).log()).mean(1)),
        ("cross_entropy", -q.gather(1, p.argmax(1)[:, None]).squeeze(1).log()),
    ):
        assert torch.allclose(classification.distance(outputs, wanted, kind), expected, atol=1e-6)
    assert torch.equal(classification.targets(DATA), DATA.labels)


def test_reconstruction_wants_the_image_itself_whatever_the_labels() -> None:
    targets = reconstruction.targets(DATA)
    assert torch.equal(targets * 255, DATA.images.float())
    for dtype in (torch.float32, torch.float64):
        floats = Samples(DATA.images.to(dtype) / 255, DATA.labels)
        assert reconstruction.targets(floats) is floats.images
    outputs = draw("reconstruction")
    each = torch.stack([((o - t) ** 2).mean() for o, t in zip(outputs, targets, strict=True)])
    assert torch.allclose(reconstruction.distance(outputs, targets, "mse"), each)
    assert float(reconstruction.loss(outputs, targets)) == pytest.approx(float(each.mean()))


def test_what_a_file_says_of_its_tasks_are_tasks() -> None:
    said = {
        f"{kind}/{name}": method.literal(method.path(kind, name), "TASKS")
        for kind in ("models", "requests", "unlearners", "attacks", "defenses")
        for name in method.files(kind)
    } | {f"metrics/{name}": family.tasks for name, family in families.declared().items()}
    assert said["unlearners/salun"] == ("classification",) and said["unlearners/finetune"] is None
    for name, tasks in said.items():
        assert tasks is None or (tasks and set(tasks) <= set(method.files("tasks"))), name


# A network that has no classes

AUTOENCODER = '''"""A small convolutional autoencoder."""

from typing import Annotated

from torch import nn


def build(classes: int, channels: int, *, width: Annotated[int, "[1, inf)"] = 16) -> nn.Module:
    """Images (N, channels, H, W) to images of the same shape, in [0, 1]."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Sigmoid(),
    )
'''  # fmt: skip
RECIPE = Recipe(epochs=15, batch_size=64, lr=3e-3, optimizer="adam", weight_decay=0.0)
ASCENT = Recipe(epochs=3, batch_size=64, lr=0.05, momentum=0.9)


def errors(model: nn.Module, images: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each image, one by one."""
    with torch.no_grad():
        answers = [model(image[None].float() / 255)[0].clamp(0, 1) for image in images]
    return torch.stack([(one - other).square().mean() for one, other in zip(answers, wanted, strict=True)])


@pytest.fixture(scope="module")
def reconstructed() -> dict[str, Any]:
    """An autoencoder of digits that was made to forget the ones, an attack on it, and its rows."""
    images = digits.load(Path())
    gone = images.train_labels == 1
    forget, retain = (Samples(images.train_images[part], images.train_labels[part]) for part in (gone, ~gone))
    namespace: dict[str, Any] = {}
    exec(AUTOENCODER, namespace)
    torch.manual_seed(0)
    original = fit(namespace["build"](10, 1), images.splits["train"], RECIPE, seed=0, task=reconstruction)
    at = Step(1, RECIPE, reconstruction)
    model = negative_gradient.unlearn(original, forget, retain, at, training=ASCENT).network
    made = uma.attack(
        OnImages(model, original, forget, 0, reconstruction), epsilons=["8/255", "none"], loss="mse", start="image"
    )
    attacked = predict.Attacked(
        "forget", ("8/255", "none"), made.images, forget.images, forget.labels, made.targets, made.loss
    )
    purify = {"median": median.purify}
    found = predict.outputs(model, images, forget, retain, {"uma": attacked}, purify, original, reconstruction)
    rows = list(measure.measure({0: found}, task="reconstruction"))
    value = {tuple(row[key] for key in ("metric", "attack", "epsilon", "defense")): row["value"] for row in rows}
    assert len(value) == len(rows)
    return {
        "images": images, "forget": forget, "retain": retain, "original": original, "model": model, "at": at,
        "made": made, "found": found, "rows": rows, "value": value,
    }  # fmt: skip


def test_a_network_without_classes_learns_forgets_and_is_brought_back(reconstructed: dict[str, Any]) -> None:
    images, forget, value = reconstructed["images"], reconstructed["forget"], reconstructed["value"]
    test = pixels(images.test_images)
    trivial = (test - pixels(images.train_images).mean(0)).square().mean()
    assert errors(reconstructed["original"], images.test_images, test).mean() < trivial / 3, "it has learnt"
    before = errors(reconstructed["original"], forget.images, pixels(forget.images)).mean()
    assert value["forget_mse", "none", "", ""] > 2 * before, "ascent forgets"
    again = finetune.unlearn(
        reconstructed["model"], forget, reconstructed["retain"], reconstructed["at"], training=RECIPE
    ).network
    kept = reconstructed["retain"]
    assert errors(again, kept.images, pixels(kept.images)).mean() < value["retain_mse", "none", "", ""]
    reached = [value["attacked_mse", "uma", epsilon, ""] for epsilon in ("0", "8/255", "none")]
    assert reached[0] > reached[1] > reached[2], "the more an attack may change, the nearer it comes to f's output"
    assert value["largest_change_levels", "uma", "8/255", ""] == 8 < value["largest_change_levels", "uma", "none", ""]


def test_its_numbers_are_those_of_a_direct_computation(reconstructed: dict[str, Any]) -> None:
    model, value, made = reconstructed["model"], reconstructed["value"], reconstructed["made"]
    for of, samples in (
        ("forget", reconstructed["forget"]), ("retain", reconstructed["retain"]),
        ("test", reconstructed["images"].splits["test"]),
    ):  # fmt: skip
        mean = errors(model, samples.images, pixels(samples.images)).mean()
        assert value[f"{of}_mse", "none", "", ""] == pytest.approx(float(mean), abs=1e-6)
    forget = reconstructed["forget"].images
    wanted = reconstructed["original"](pixels(forget)).detach()
    for epsilon, shown in zip(("0", "8/255", "none"), (forget, *made.images), strict=True):
        for defense, seen in (("", shown), ("median", median.purify(shown))):
            to_output = errors(model, seen, wanted).mean()
            assert value["attacked_mse", "uma", epsilon, defense] == pytest.approx(float(to_output), abs=1e-6)
            to_image = errors(model, seen, pixels(forget)).mean()
            assert value["forget_mse", "uma", epsilon, defense] == pytest.approx(float(to_image), abs=1e-6)
    for epsilon, loss in zip(("8/255", "none"), made.loss, strict=True):
        assert value["attack_loss", "uma", epsilon, ""] == pytest.approx(float(loss.mean()), abs=1e-6)


def test_of_it_nothing_is_measured_that_takes_classes_and_no_image_is_written_down(
    reconstructed: dict[str, Any],
) -> None:
    metrics = {row["metric"] for row in reconstructed["rows"]}
    mse, psnr = ({f"{of}_{name}" for of in ("forget", "retain", "test", "attacked")} for name in ("mse", "psnr"))
    assert metrics == mse | psnr | {"largest_change_levels", "attack_loss", "parameters"}
    for names, unit in ((mse, "squared pixel range"), (psnr, "dB")):
        assert {row["unit"] for row in reconstructed["rows"] if row["metric"] in names} == {unit}
    assert max(tensor.ndim for name, tensor in reconstructed["found"].tensors.items() if "loss" not in name) == 1


def test_a_stop_that_counts_recognised_images_is_refused(reconstructed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="negative_gradient: stop_at is for tasks that have labels"):
        negative_gradient.unlearn(
            reconstructed["model"], reconstructed["forget"], reconstructed["retain"], reconstructed["at"], stop_at=0.1
        )


# The same through the workflow: a paper that is its folder, and a file of models/

METRICS = ("forget_mse", "retain_mse", "attacked_mse")
PAPER: dict[str, Any] = {
    "title": "A toy paper on autoencoders",
    "cite": "Nobody, 2026.",
    "protocol": "It makes an autoencoder forget a class and attacks it.",
    "names": {"digits": "Digits", "autoencoder": "AE", "class_1": "class 1", "uma": "UMA", "ascent": "NG"},
    "layout": {
        "groups": [
            {"label": label, "short": label, "cells": {"epsilon": [epsilon]}, "columns": ["forget", "retain", "f"]}
            for label, epsilon in (("No attack", ""), ("ε = 8/255", "8/255"), ("no bound", "none"))
        ],
        "places": {"forget": 4, "retain": 4, "f": 4},
        "metrics": {
            metric: {"column": column, "says": f"the error of {column}"}
            for metric, column in zip(METRICS, ("forget", "retain", "f"), strict=True)
        },
    },
    "checks": {
        "sizes": {"forget": "forget_mse", "retain": "retain_mse"},
        "rows": [
            {"says": "No attack moves a pixel by more than ε.", "rows": {"metric": "largest_change_levels"},
             "at_most_epsilon": 255},
        ],
    },
    "tables": {"errors": {"title": "Table 1. Errors", "caption": "The table shows errors."}},
    "figures": {
        "bars": {"kind": "bars", "panels": ["dataset"], "y": "error", "ylim": [0, 0.2], "title": "Figure 1. Errors",
                 "caption": "The bars show errors."},
        "bounds": {"kind": "lines", "hue": ["unlearner"], "x": "epsilon", "at": {"8/255": 8, "none": 255}, "y": "error",
                   "xlabel": "ε", "ylim": [0, 0.2], "title": "Figure 2. Bounds", "caption": "The lines show errors."},
    },
    "claims": [
        {"says": "What is unbounded comes nearer.", "source": "Table 1", "table": "errors",
         "cells": {"attack": "uma", "epsilon": "none", "unlearner": "ascent", "metric": "attacked_mse", "defense": ""},
         "check": {"no_more_than": {"epsilon": "8/255"}}},
    ],
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "models": {"autoencoder": {"task": "reconstruction", "width": 8}},
    "recipes": {"autoencoder": {"epochs": 15, "batch_size": 64, "lr": 3e-3, "optimizer": "adam"}},
    "requests": {"class_1": {"method": "classes", "classes": [1]}},
    "unlearners": {
        "refined": {"method": "finetune", "lr": 0.01},
        "ascent": {"method": "negative_gradient", "epochs": 3, "batch_size": 64, "lr": 0.05},
    },
    "attacks": {"uma": {"epsilons": ["8/255", "none"], "loss": "mse", "start": "image"}},
    "defenses": {"median": {}},
}
HEADER = ("dataset", "model", "forget", "unlearner", "attack", "epsilon", "defense", "metric", "published", "note")


def plant(project: Path) -> Path:
    """Put the network and the paper, and no other, into a copy of the project."""
    shutil.rmtree(project / "config/papers")
    folder = project / "config/papers/toy"
    folder.mkdir(parents=True)
    (project / "src/palimpsest/models").mkdir(parents=True, exist_ok=True)
    (project / "src/palimpsest/models/autoencoder.py").write_text(AUTOENCODER)
    (folder / "paper.yaml").write_text(yaml.safe_dump(PAPER, sort_keys=False))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = [
        ("digits", "autoencoder", "class_1", unlearner, attack, epsilon, defense, metric, "", "")
        for unlearner in ("original", "refined", "ascent")
        for defense in ("", "median")
        for attack, epsilon, metrics in (
            ("none", "", METRICS[:1] if defense else METRICS[:2]),
            ("uma", "8/255", METRICS[::2]),
            ("uma", "none", METRICS[::2]),
        )
        for metric in metrics
    ]
    bounds = [line for line in lines if line[4] == "uma" and line[7] == "attacked_mse" and not line[6]]
    for name, rows in (("errors", lines), ("bars", lines[:2]), ("bounds", bounds)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    return project


def test_a_paper_on_another_task_is_its_folder_and_a_network(tmp_path: Path) -> None:
    for name in ("config", "profiles", "workflow", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    snakemake(plant(tmp_path), config=("scale=demo",))
    with (tmp_path / "results/demo/papers/toy/errors.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3 * 11 and all(0 <= float(cell["mean"]) < 1 for cell in found)
    by_epsilon = {
        cell["epsilon"]: float(cell["mean"])
        for cell in found
        if (cell["unlearner"], cell["metric"], cell["defense"]) == ("ascent", "attacked_mse", "")
    }
    assert by_epsilon["none"] < by_epsilon["8/255"]
    page = (tmp_path / "results/demo/papers/toy/index.html").read_text()
    assert "What is unbounded comes nearer." in page and "no bound" in page
    rows = tmp_path / "results/demo/rows/digits/autoencoder/class_1/ascent.jsonl"
    changes = {
        row["epsilon"]: row["value"]
        for row in map(json.loads, rows.read_text().splitlines())
        if row["metric"] == "largest_change_levels"
    }
    assert changes["8/255"] <= 8 < changes["none"], "no check of ε is violated by what has none"
    assert "violated" not in page
    assert "Nothing to be done" in snakemake(tmp_path, config=("scale=demo",))
    assert "hours" in snakemake(tmp_path, "plan", config=("scale=demo",)).lower()


def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changed: dict[str, Any]) -> Plan:
    """The plan of the planted paper in this process, with entries of its configuration changed."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    plant(tmp_path)
    monkeypatch.setattr("palimpsest.pipeline.papers.PAPERS", tmp_path / "config/papers")
    known = method.files("models") | {"autoencoder": tmp_path / "src/palimpsest/models/autoencoder.py"}
    method.path.cache_clear()
    files = method.files
    monkeypatch.setattr(method, "files", lambda kind: known if kind == "models" else files(kind))
    own = {section: CONFIG.get(section, {}) | entries for section, entries in changed.items()}
    (tmp_path / "config/papers/toy/config.yaml").write_text(yaml.safe_dump(CONFIG | own))
    return Plan(configuration.load(scale="demo"))


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("unlearner", "salun", "salun is for classification; the network autoencoder is for reconstruction"),
        ("metric", "forget_accuracy", "forget_accuracy is for classification; the network autoencoder is for recon"),
        ("forget", "worst", "worst is for classification; the network autoencoder"),
        ("model", "lenet", "forget_mse is for reconstruction; the network lenet is for classification"),
        ("unlearner", "tuned", "tuning of tuned is for classification; the network autoencoder"),
    ],
)
def test_what_a_task_does_not_have_is_refused_before_the_first_job(
    column: str, value: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(
        tmp_path,
        monkeypatch,
        requests={"worst": {"method": "margin", "count": 5}},
        unlearners={"tuned": {"method": "finetune", "lr": {"tune": [0.1, 0.01]}}},
    )
    line = dict.fromkeys(HEADER, "") | {"dataset": "digits", "model": "autoencoder", "forget": "class_1"}
    line |= {"unlearner": "refined", "attack": "none", "metric": "forget_mse"}
    with (tmp_path / "config/papers/toy/errors.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, (line | {column: value}).values()])
    with pytest.raises(ConfigError, match=f"toy/errors.csv:2: {sentence}"):
        plan.items  # noqa: B018


def test_a_task_that_there_is_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"models.autoencoder has no task 'reconstructing'; Did you mean 'recon"):
        planned(tmp_path, monkeypatch, models={"autoencoder": {"task": "reconstructing"}})


def test_a_change_is_held_against_an_epsilon_where_there_is_one() -> None:
    run = Run("digits", "autoencoder", "class_1", "refined")
    every = SimpleNamespace(forgets_classes=lambda run: True)
    own = {"says": "x", "rows": {"metric": "largest_change_levels"}, "at_most_epsilon": 255}
    changes = {"8/255": 9.0, "16/255": 16.0, "none": 255.0, "0": 0.0}
    found = {(0, "uma", epsilon, "largest_change_levels"): (value, 5, "") for epsilon, value in changes.items()}
    cases = list(checks.rows_hold(own, {}, every, {run: found}))  # type: ignore[arg-type]
    assert [bool(wrong) for _, wrong in cases] == [True, False, False], "nothing is said of what has no bound"
