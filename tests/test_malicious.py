"""The malicious-requests paper's own section: its attempts by the image that they are aimed at."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_report import rows_of

from palimpsest.pipeline import configuration
from palimpsest.pipeline.cells import Cell, Plan
from palimpsest.pipeline.configuration import ROOT
from palimpsest.report import compare, page

sections = page.load(ROOT / "config" / "papers" / "malicious" / "sections.py")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(configuration.load(scale="laptop"))


def cell(plan: Plan, metric: str, derive: str = "") -> Cell:
    (one,) = (
        one for one in plan.tables["malicious", "table1"]
        if (one.forget, one.unlearner) == ("dogfish_first_order_4-same", "first_order_2e2")
        and (one.metric, one.derive) == (metric, derive)
    )  # fmt: skip
    return one


def test_attempts_are_counted_by_image_with_wilsons_interval(plan: Plan, tmp_path: Path) -> None:
    success = [100.0 if number % 5 in (0, 3) and number < 30 else 0.0 for number in range(40)]
    targeted = [100.0 if number == 3 else 0.0 for number in range(40)]
    cells = (cell(plan, "attempt_success"), success), (cell(plan, "attempt_targeted"), targeted)
    found = [compare.judge(one, rows_of(values, one, n=1)) for one, values in cells]
    found.append(compare.judge(cell(plan, "test_accuracy_full"), []))
    (one,) = sections.attempts(found, lambda cell: 5)
    assert (one.n, one.successes, one.targeted) == (40, 12, 1)
    assert one.images == ((6, 8), (0, 8), (0, 8), (6, 8), (0, 8))
    # Wilson: (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n) of 12 in 40.
    z, p, n = 1.959963984540054, 0.3, 40
    middle, half = p + z * z / 2 / n, z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    ends = [100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert [one.low, one.high] == pytest.approx(ends)
    ((title, text),) = sections.sections(page.Context(plan, "malicious", plan.papers["malicious"], found, tmp_path))
    assert title == "Attempts by target" and "12 of 40" in text and "6/8, 0/8, 0/8, 6/8, 0/8" in text


def test_without_numbers_there_is_no_section(plan: Plan, tmp_path: Path) -> None:
    empty = [compare.judge(cell(plan, "attempt_success"), [])]
    assert sections.sections(page.Context(plan, "malicious", plan.papers["malicious"], empty, tmp_path)) == []
