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


def measured(alpha: float) -> dict[str, float]:
    """What a model made with this value measures: the gap is (10 alpha + 2) / 4 by hand, in each repetition."""
    return RETRAINED | {"forget_accuracy": 10 * alpha, "test_accuracy_retained": 88.0}


def searched(start: list[float], trials: int = 0, lost: tuple[float, ...] = (), best: float = 0.0) -> tune.Found:
    """A search whose gap grows with the distance from `best`."""

    def measure(value: float) -> list[dict[str, float]]:
        if value in lost:
            raise Diverged("the loss was nan")
        return [measured(abs(value - best)), measured(abs(value - best))]

    return tune.search(measure, [RETRAINED, RETRAINED], start, trials, lambda value: 0 <= value <= 100)


def test_the_smallest_mean_gap_over_the_four_metrics_wins() -> None:
    found = searched([3.0, 1.0, 2.0])
    assert found.chosen == 1.0
    assert [trial["gap"] for trial in found.trials] == [8.0, 3.0, 5.5]
    assert found.trials[0]["value"] == 3.0 and found.trials[0]["metrics"] == [measured(3.0), measured(3.0)]


def test_every_held_out_repetition_counts() -> None:
    """In the first alone 1 is the better value, in both together it is 2."""
    forgets = {1: (0.0, 60.0), 2: (10.0, 10.0)}
    found = tune.search(
        lambda value: [RETRAINED | {"forget_accuracy": one} for one in forgets[value]], [RETRAINED] * 2, [1, 2], 2
    )
    assert found.chosen == 2 and [trial["gap"] for trial in found.trials] == [7.5, 2.5]


def test_of_equals_the_first_that_was_tried_wins() -> None:
    assert searched([0.5, 1.5], best=1.0).chosen == 0.5
    assert searched([1.5, 0.5], best=1.0).chosen == 1.5


def test_a_diverged_value_cannot_win_and_where_all_do_the_first_stands() -> None:
    found = searched([0.5, 2.0], lost=(0.5,))
    assert found.chosen == 2.0
    assert found.trials[0] == {"value": 0.5, "metrics": [], "gap": None, "status": "diverged: the loss was nan"}
    assert searched([1.0, 2.0], lost=(1.0, 2.0)).chosen == 1.0


def test_a_search_widens_until_the_best_is_inside_and_then_narrows() -> None:
    found = searched([0.1, 1.0], trials=6, best=30.0)
    assert [trial["value"] for trial in found.trials] == [0.1, 1.0, 10.0, 100.0, 3.16, 31.6]
    assert found.chosen == 31.6 and not found.edge


def test_a_search_that_runs_out_of_trials_says_that_it_ended_at_an_edge() -> None:
    assert searched([0.1, 1.0], trials=3, best=30.0).edge
    assert searched([0.1, 0.2], trials=2, best=0.0).edge
    assert not searched([0.1, 1.0, 10.0], trials=3, best=1.0).edge


def test_a_search_stays_in_its_range_whose_end_is_no_edge() -> None:
    found = searched([10.0, 100.0], trials=4, best=500.0)
    assert found.chosen == 100.0 and not found.edge
    assert [trial["value"] for trial in found.trials] == [10.0, 100.0, 31.6, 56.2]


def test_a_step_that_would_leave_the_range_is_shortened() -> None:
    found = searched([5.0, 50.0], trials=3, best=500.0)
    assert [trial["value"] for trial in found.trials] == [5.0, 50.0, 88.9] and found.chosen == 88.9


def test_every_method_gets_the_same_number_of_trials() -> None:
    counts = {len(searched([0.1, 1.0, 3.0], trials=7, best=best).trials) for best in (0.0, 0.3, 2.0, 99.0)}
    assert counts == {7}


def test_whole_numbers_stay_whole() -> None:
    found = tune.search(lambda value: [measured(abs(value - 7))], [RETRAINED], [2, 4], 5)
    assert [trial["value"] for trial in found.trials] == [2, 4, 8, 16, 6] and found.chosen == 8


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
    assert configuration.grid_of(config, "retrain") == {}


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
        assert config["tuning"]["first"] >= config["repetitions"]
    with pytest.raises(ConfigError, match=r"tuning\.first"):
        configuration.load(scale="demo", tuning={"first": 1, "repetitions": 1, "trials": 3})
