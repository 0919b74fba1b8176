"""Tuning: the rule's gap against a hand count, ties, diverged trials; and what the configuration says of grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest import models, tune
from palimpsest.models import Diverged, Network
from palimpsest.pipeline import cells, configuration
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


def test_measurements_become_points_of_a_hundred() -> None:
    rows = [
        {"metric": "forget_accuracy", "value": 1.5, "unit": "%"},
        {"metric": "retain_accuracy", "value": 99.0, "unit": "%"},
        {"metric": "test_accuracy_retained", "value": 90.0, "unit": "%"},
        {"metric": "member_rate", "value": 0.25, "unit": "fraction"},
        {"metric": "parameters", "value": 7.0, "unit": "parameters"},
    ]
    assert tune.in_points(rows) == {
        "forget_accuracy": 1.5, "retain_accuracy": 99.0, "test_accuracy_retained": 90.0, "member_rate": 25.0
    }  # fmt: skip


def test_a_grid_in_the_configuration_is_told_from_fixed_values_and_inherited() -> None:
    config = configuration.load(scale="paper")
    grid = configuration.grid_of(config, "influence_woodfisher_corrected")
    assert set(grid) == {"alpha"} and len(grid["alpha"]) > 2
    fixed = cells.fixed_of(config, "influence_woodfisher_corrected")
    assert fixed["variant"] == "woodfisher" and fixed["samples"] == 1000 and "alpha" not in fixed
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
