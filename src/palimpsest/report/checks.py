"""Sanity checks: what must be true of the runs before any of their numbers is read.

They are computed from the rows and from the data's record alone. Every paper has two: a run has as many repetitions as
it should, and the forget set and the retain set together make up the training set. `checks` in paper.yaml declares
more:

    sizes: {forget: [forget_accuracy, forget_mse], retain: […]}   metrics over these two sets, whose sizes are compared;
                                                                  the first that a model has counts
    rows:  [{says: …, rows: {unlearner: retrain, metric: forget_accuracy}, at_most: 1}]

`rows` is a filter of rows; with `whole_classes` it takes only forget sets of whole classes (true) or of single samples
(false). `at_least` and `at_most` give a bound, one for all or one for each of the paper's data sets; `at_most_epsilon:
255` means so many times the row's ε, and nothing for an ε of `none`. `no_less_than`, `no_more_than` and `equal_to` name
a partner: the row of the same model that differs in these fields. `tolerance` is the largest of `points`, `images` and
`standard_errors`, the last being those of the difference of two proportions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from palimpsest.pipeline import paths
from palimpsest.pipeline.cells import Cell, Plan, Run
from palimpsest.report.compare import read_rows

SAYS = {
    "at_least": "at least", "at_most": "at most", "at_most_epsilon": "at most", "no_less_than": "no less than",
    "no_more_than": "no more than", "equal_to": "as much as",
}  # fmt: skip
FIELDS = ("attack", "epsilon", "metric")
UNBOUNDED = "none"  # the epsilon of an attack that nothing but the range of pixels bounds


class Status(StrEnum):
    """What became of a check; it is not checked where there is nothing to look at."""

    PASSED = "passed"
    VIOLATED = "violated"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One check over all runs. cases: how many were looked at. violations: the numbers of each case that failed."""

    says: str
    cases: int
    violations: tuple[str, ...]

    @property
    def status(self) -> Status:
        """The check's result."""
        return Status.VIOLATED if self.violations else Status.PASSED if self.cases else Status.NOT_CHECKED


Case = tuple[str, str]  # what was looked at, and what is wrong with it: empty where nothing is
Key = tuple[int, str, str, str]  # repetition, attack, epsilon, metric
Measured = dict[Key, tuple[float, int, str]]  # value, images, unit


def check(plan: Plan, paper: str, results: Path) -> list[Check]:
    """Make every check over the runs of a paper; `results` is results/<scale>."""
    cells = [part for (of, _), item in plan.items.items() if of == paper for cell in item for part in cell.measured]
    runs = list(dict.fromkeys(run for cell in cells for run in cell.runs))
    rows = {run: found for run in runs if (found := read_rows(results / run.rows))}
    measured = {run: _measured(found) for run, found in rows.items()}
    asked = plan.papers[paper].get("checks", {})
    whole = (repetitions(run, found, plan.repetitions(run)) for run, found in rows.items())
    sizes = forget_sets(measured, asked["sizes"], results) if "sizes" in asked else ()
    made = [
        _gather("Every run has all of its repetitions.", whole),
        _gather("The forget set and the retain set are together the whole training set.", sizes),
    ]
    for one in asked.get("rows", []):
        bounds = _bounds(one, cells)
        by_data = ", ".join(f"{name} {value:g}" for name, value in bounds.items())
        says = f"{one['says'].removesuffix('.')} (at least: {by_data})." if by_data else one["says"]
        made.append(_gather(says, rows_hold(one, bounds, plan, measured)))
    return made


def _bounds(own: Mapping[str, Any], cells: Iterable[Cell]) -> dict[str, float]:
    """Return the bounds of `at_least` by the data set that ran; one that stands for several has the strictest one."""
    asked, found = own.get("at_least"), dict[str, float]()
    if not isinstance(asked, Mapping):
        return found
    for cell in cells:
        if cell.run and cell.dataset in asked:
            found[cell.run.dataset] = max(asked[cell.dataset], found.get(cell.run.dataset, -math.inf))
    return found


def rows_hold(
    own: Mapping[str, Any], bounds: Mapping[str, float], plan: Plan, measured: Mapping[Run, Measured]
) -> Iterator[Case]:
    """Yield each row that a declared check is about and that has a bound or partner, held against it."""
    (kind,) = SAYS.keys() & own.keys()
    for run, found in measured.items():
        whole = plan.forgets_classes(run)
        if not _listed(run.unlearner, own["rows"].get("unlearner")) or whole != own.get("whole_classes", whole):
            continue
        for key, (value, n, unit) in found.items():
            row, tolerance, wanted = dict(zip(FIELDS, key[1:], strict=True)), 0.0, None
            if not all(_listed(row[field], own["rows"].get(field)) for field in FIELDS):
                continue
            if kind == "at_most_epsilon" and row["epsilon"] != UNBOUNDED:
                wanted = float(Fraction(row["epsilon"]) * own[kind])
            elif kind in ("at_least", "at_most"):
                wanted = bounds.get(run.dataset) if isinstance(own[kind], Mapping) else own[kind]
            elif kind in ("no_less_than", "no_more_than", "equal_to"):
                partner = {**row, **own[kind]}
                if other := found.get((key[0], *(partner[field] for field in FIELDS))):
                    wanted, m, _ = other
                    tolerance = _tolerance(own.get("tolerance", {}), value, n, wanted, m)
            if wanted is None:
                continue
            off = {"at_least": wanted - value, "no_less_than": wanted - value, "equal_to": abs(value - wanted)}
            wrong = off.get(kind, value - wanted) > tolerance + 1e-6
            about = ", ".join(filter(None, (_about(run), *key[1:3], f"repetition {key[0]}")))
            give = f", give or take {tolerance:.2f}" if tolerance else ""
            yield about, f"{value:.6g} {unit}, not {SAYS[kind]} {wanted:.6g}{give}" if wrong else ""


def _tolerance(asked: Mapping[str, float], value: float, n: int, other: float, m: int) -> float:
    if not (n and m):
        return 0.0
    p = (value * n + other * m) / (n + m) / 100
    error = 100 * math.sqrt(max(p * (1 - p), 0.0) * (1 / n + 1 / m))
    return max(asked.get("points", 0.0), asked.get("images", 0) * 100 / m, asked.get("standard_errors", 0) * error)


def _listed(value: str, wanted: str | Sequence[str] | None) -> bool:
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)


def repetitions(run: Run, rows: Sequence[Mapping[str, Any]], asked: int) -> Case:
    """Check that a run has the repetitions 0 to asked - 1, none missing and none besides."""
    there = sorted({int(row["repetition"]) for row in rows})
    return _about(run), "" if there == list(range(asked)) else f"repetitions {there}, asked for {asked}"


def forget_sets(
    measured: Mapping[Run, Measured], metrics: Mapping[str, str | Sequence[str]], results: Path
) -> Iterator[Case]:
    """Yield for each repetition whether what it forgot and what it retained are as many as the training set has."""
    for run, found in measured.items():
        record = results / paths.record_of(paths.below("data", "images", dataset=run.dataset))
        if not record.is_file():
            continue
        train = int(json.loads(record.read_text())["train"])
        for repetition in sorted({key[0] for key in found}):
            gone, kept = (_size(found, repetition, metrics[part]) for part in ("forget", "retain"))
            wrong = f"{gone} forgotten and {kept} retained of {train}" if kept + gone != train or not gone else ""
            yield f"{_about(run)}, repetition {repetition}", wrong


def _size(found: Measured, repetition: int, metrics: str | Sequence[str]) -> int:
    """Return over how many samples the first of some metrics that is there was measured; 0 where none is."""
    keys = ((repetition, "none", "", name) for name in ([metrics] if isinstance(metrics, str) else metrics))
    return next((found[key][1] for key in keys if key in found), 0)


def _gather(says: str, cases: Iterable[Case]) -> Check:
    every = list(cases)
    return Check(says, len(every), tuple(f"{what}: {wrong}" for what, wrong in every if wrong))


def _measured(rows: Sequence[Mapping[str, Any]]) -> Measured:
    sound = [row for row in rows if row["status"] == "ok" and not row["defense"]]
    keys = [(int(row["repetition"]), row["attack"], row["epsilon"], row["metric"]) for row in sound]
    return {key: (float(row["value"]), int(row["n"]), str(row["unit"])) for key, row in zip(keys, sound, strict=True)}


def _about(run: Run) -> str:
    return f"{run.dataset}, {run.forget}, {run.unlearner}"
