"""The healing paper's own sections: twins beside their rivals, seed by seed, and every run that healing starts from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scipy import stats
from test_report import rows_of

from palimpsest.pipeline import configuration
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.configuration import ROOT
from palimpsest.report import compare, page
from palimpsest.report.compare import Compared

sections = page.load(ROOT / "config" / "papers" / "healing" / "sections.py")
START = "fisher_calibrated"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(configuration.load(scale="demo"))


def setups(plan: Plan, **values: list[float]) -> list[Compared]:
    """The cells of one request's setups that healed for one epoch, with these values by kind of data."""
    found = []
    for cell in plan.tables["healing", "setups"]:
        healed = re.fullmatch(rf"{START}-heal_(\w+)_1", cell.unlearner)
        if cell.dataset == "mnist_spares" and cell.forget == "worst_25-same" and healed and healed[1] in values:
            found.append(compare.judge(cell, rows_of(values[healed[1]], cell, n=359)))
    assert len(found) == len(values)
    return found


def test_twins_stand_beside_random_spares_and_beside_none_seed_by_seed(plan: Plan) -> None:
    twins, random, none = [90.0, 93.0, 95.0, 96.0, 91.0], [88.0, 91.5, 93.0, 93.5, 90.0], [90.5, 92.0, 96.0, 95.0, 92.0]
    found = {pair.rival: pair for pair in sections.pairs(setups(plan, raw_l2=twins, random=random, remaining=none))}
    assert found.keys() == {"random", "remaining"}
    for rival, other in (("random", random), ("remaining", none)):
        whole = stats.ttest_rel(twins, other).confidence_interval(0.95)
        pair = found[rival]
        assert (pair.difference - pair.half, pair.difference + pair.half) == pytest.approx((whole.low, whole.high))
    assert found["random"].better is True and found["remaining"].better is None


def test_equal_values_are_no_more_certain_than_the_grid_on_which_they_lie(plan: Plan) -> None:
    (pair,) = sections.pairs(setups(plan, raw_l2=[90.0, 91.0], random=[90.1, 91.1]))
    assert pair.half == pytest.approx(stats.t.ppf(0.975, 1) * 100 / 359 / 12**0.5 / 2**0.5) and pair.better is None


def test_one_seed_decides_nothing_and_a_rival_that_was_not_run_is_left_out(plan: Plan) -> None:
    (pair,) = sections.pairs(setups(plan, raw_l2=[90.0], random=[50.0]))
    assert (pair.n, pair.half, pair.better) == (1, None, None)
    assert not sections.pairs(setups(plan, raw_l2=[90.0], feature_cosine=[91.0]))


def test_the_page_shows_every_run_and_marks_the_one_that_is_nearest_the_mean(plan: Plan, tmp_path: Path) -> None:
    (cell,) = (
        one for one in plan.tables["healing", "table6"]
        if (one.dataset, one.forget, one.unlearner, one.metric, one.derive)
        == ("mnist_spares", "worst_25", "fisher", "test_accuracy_full", "")
    )  # fmt: skip
    found = [compare.judge(cell, rows_of([90.0, 80.0, 84.5], cell)), *setups(plan, raw_l2=[90.0], random=[50.0])]
    made = dict(sections.sections(page.Context(plan, "healing", plan.papers["healing"], found, tmp_path)))
    assert "90.00, 80.00, <b>84.50</b>" in made["The runs one by one"]
    assert "T-RawL2 (1)" in made["Twins against others"] and "+40.00" in made["Twins against others"]
