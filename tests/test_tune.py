"""Tuning: the rule's gap against a hand count, ties, diverged trials; and what the configuration says of grids."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from test_unlearners import samples, tiny_model

from palimpsest import data, models, train, tune
from palimpsest.data import Samples
from palimpsest.models import Diverged, Network
from palimpsest.pipeline import configuration
from palimpsest.pipeline.configuration import ConfigError

RETRAINED = {"forget_accuracy": 0.0, "retain_accuracy": 100.0, "test_accuracy_retained": 90.0, "member_rate": 5.0}


def network(mark: float) -> Network:
    """A network that carries a number, so that `measure` can tell which values made it."""
    return models.create(
        models.Spec("small_cnn", 2, 1, {"width": 2, "hidden": 2}), torch.tensor([mark]), torch.tensor([1.0]), 0
    )


def found(alpha: float, beta: float) -> dict[str, float]:
    """What a model made with these values measures: the gap is (10 alpha + beta) / 4 by hand."""
    return RETRAINED | {"forget_accuracy": 10 * alpha, "test_accuracy_retained": 90.0 - beta}


def searched(grid: dict[str, list[float]], lost: tuple[float, ...] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    made: list[tuple[float, float]] = []

    def unlearn(*, alpha: float, beta: float = 0.0) -> Network:
        made.append((alpha, beta))
        if alpha in lost:
            raise Diverged("the loss was nan")
        return network(alpha)

    return tune.search(unlearn, lambda model: found(*made[-1]), RETRAINED, grid)


def test_the_smallest_mean_gap_over_the_four_metrics_wins() -> None:
    chosen, trials = searched({"alpha": [3.0, 1.0, 2.0], "beta": [4.0, 8.0]})
    assert chosen == {"alpha": 1.0, "beta": 4.0}
    assert [trial["gap"] for trial in trials] == [8.5, 9.5, 3.5, 4.5, 6.0, 7.0]
    assert trials[0]["values"] == {"alpha": 3.0, "beta": 4.0} and trials[0]["metrics"] == found(3.0, 4.0)


def test_of_equals_the_first_of_the_grid_wins() -> None:
    assert searched({"alpha": [0.2, 0.0], "beta": [0.0, 2.0]})[0] == {"alpha": 0.0, "beta": 0.0}
    assert searched({"alpha": [0.4, 0.0], "beta": [4.0, 0.0]})[0] == {"alpha": 0.0, "beta": 0.0}
    assert searched({"alpha": [0.4, 0.0], "beta": [4.0]})[0] == {"alpha": 0.0, "beta": 4.0}
    assert searched({"alpha": [-0.1, 0.1]})[0] == {"alpha": -0.1}, "|gap| is the same"


def test_a_diverged_value_cannot_win_and_where_all_do_the_first_stands() -> None:
    chosen, trials = searched({"alpha": [0.0, 2.0]}, lost=(0.0,))
    assert chosen == {"alpha": 2.0}
    assert trials[0] == {"values": {"alpha": 0.0}, "metrics": {}, "gap": None, "status": "diverged: the loss was nan"}
    assert searched({"alpha": [1.0, 2.0]}, lost=(1.0, 2.0))[0] == {"alpha": 1.0}


def probe() -> tuple[Network, data.Images, Samples, Samples]:
    """A network that knows classes 1 to 3 a little, and class 0, which it is to forget, among the test images."""
    everything, unseen = samples(80), samples(40, seed=1)
    gone = everything.labels == 0
    forget, retain = (Samples(*(tensor[part] for tensor in everything)) for part in (gone, ~gone))
    model = train.fit(tiny_model(), retain, train.Recipe(4, 8, 0.01), seed=0)
    return model, data.Images({"train": everything, "test": unseen}, tuple("abcd")), forget, retain


def test_clean_metrics_are_counted_by_hand_in_points_of_a_hundred() -> None:
    model, images, forget, retain = probe()
    found = tune.clean(model, images, forget, retain)
    assert tuple(found) == tune.METRICS

    def correct(part: Samples) -> float:
        answers = [int(model(image[None] / 255).argmax()) for image in part.images]
        return 100 * sum(a == b for a, b in zip(answers, part.labels.tolist(), strict=True)) / len(answers)

    known = images.test_labels != 0
    assert found["forget_accuracy"] == pytest.approx(correct(forget), abs=1e-5)
    assert found["retain_accuracy"] == pytest.approx(correct(retain), abs=1e-5)
    unseen = Samples(images.test_images[known], images.test_labels[known])
    assert found["test_accuracy_retained"] == pytest.approx(correct(unseen), abs=1e-5)

    def confidence(part: Samples) -> np.ndarray:
        shares = models.predict(model, part.images)
        return np.array([[float(row[label])] for row, label in zip(shares, part.labels.tolist(), strict=True)])

    members = confidence(Samples(*(tensor[:30] for tensor in retain)))
    machine = SVC(C=3, gamma="auto").fit(np.concatenate([members, confidence(unseen)]), [1] * 30 + [0] * 30)
    assert found["member_rate"] == pytest.approx(100 * machine.predict(confidence(forget)).mean(), abs=1e-5)


def test_a_model_whose_answers_are_not_finite_has_diverged_and_no_accuracy() -> None:
    model, images, forget, retain = probe()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    with pytest.raises(Diverged, match="outputs are not finite"):
        tune.clean(model, images, forget, retain)


def test_tuning_and_its_attacker_do_not_depend_on_metrics_nor_on_attacks() -> None:
    code = (
        "import sys, palimpsest.tune; "
        "assert not [m for m in sys.modules if m.startswith(('palimpsest.metrics', 'palimpsest.attacks'))]"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(configuration.ROOT / "src")}
    )


def test_a_grid_in_the_configuration_is_told_from_fixed_values_and_inherited() -> None:
    config = configuration.load(scale="paper")
    grid = configuration.grid_of(config, "influence_woodfisher_corrected")
    assert set(grid) == {"alpha"} and len(grid["alpha"]) > 2
    keywords = configuration.keywords_of(config, "unlearners", "influence_woodfisher_corrected")
    assert keywords["variant"] == "woodfisher" and keywords["samples"] == 1000
    assert configuration.grid_of(config, "finetune") == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"unlearners": {"l1_sparse": {"alpha": {"tune": [1.0e-4]}}}},
        {"unlearners": {"l1_sparse": {"alpha": {"tune": 1.0e-4}}}},
        {"unlearners": {"l1_sparse": {"alpha": {"tune": [1, 2], "log": True}}}},
        {"attacks": {"uma": {"loss": {"tune": ["kl", "mse"]}}}},
    ],
)
def test_what_is_not_a_grid_is_refused(wrong: dict[str, Any]) -> None:
    config = configuration.load(scale="paper")
    for section, entries in wrong.items():
        for name, entry in entries.items():
            config[section][name] = {**config[section][name], **entry}
    with pytest.raises(ConfigError, match=r"\{tune: \[two values or more\]\}"):
        configuration.resolve(config)


def test_tuning_never_uses_a_repetition_of_the_tables() -> None:
    for scale in ("demo", "laptop", "paper"):
        config = configuration.load(scale=scale)
        assert config["tuning_seed"] >= config["repetitions"]
    with pytest.raises(ConfigError, match="tuning_seed"):
        configuration.load(scale="demo", tuning_seed=1)
