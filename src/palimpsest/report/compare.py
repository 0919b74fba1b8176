"""Ours beside published: for each cell of a table the mean over repetitions, its spread, and a verdict.

The rule. A published number is a single run of somebody else, or the mean of k (paper.yaml's `printed_trials`), so it
is held against the interval in which the mean of k more runs of ours would fall: mean ± h, with h the largest of

    t(0.975, n - 1) · sd · sqrt(1/k + 1/n)  the 95% prediction interval over n repetitions (n >= 2),
    sqrt(p (1 - p) / m)                     one standard error of a proportion p = mean over m images,
    1 / m                                   one image, the step of the grid on which such a number lies;

the last two only for percentages and fractions. Two repetitions give a wide interval (t = 12.7): an agreement then says
little, which is why n stands beside every number. A number of another unit that was run once has no interval.

A cell with reductions (stand-in data, network, forget set, or a cut budget) is never compared. A cell of which any
repetition diverged is not compared either: the mean of the surviving runs would flatter.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from palimpsest.pipeline.cells import Cell

AGREES, DIFFERS, STAND_IN = "agrees", "differs", "stand-in"
NOT_RUN, NOT_APPLICABLE, DIVERGED = "not run", "not applicable", "diverged"
UNREADABLE, NO_PUBLISHED, NO_INTERVAL = "unreadable", "no published value", "no interval"
# What a verdict looks like in text; the same sign in every format, so that none depends on colour.
SIGNS = {
    AGREES: "=", DIFFERS: "≠", STAND_IN: "~", NOT_RUN: "", NOT_APPLICABLE: "–", DIVERGED: "!",
    UNREADABLE: "?", NO_PUBLISHED: "", NO_INTERVAL: "1",
}  # fmt: skip
MEANING = {
    AGREES: "the published number lies in our interval",
    DIFFERS: "it lies outside",
    STAND_IN: "not comparable: stand-in or reduced budget",
    DIVERGED: "a repetition diverged",
    UNREADABLE: "the published number cannot be read",
    NO_INTERVAL: "run once, no interval",
}
FIELDS = ("attack", "epsilon", "defense", "screening", "metric")  # what a measurement and a cell have in common
SCALES = {"%": 100.0, "fraction": 1.0}  # units of proportions, and what 1 is in them

Row = Mapping[str, Any]
Where = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Compared:
    """One cell with what was found for it.

    values: by repetition, in the cell's unit. sd: sample standard deviation (ddof 1), None for one repetition.
    half: the h of the module's rule. difference: ours minus published. why: what the verdict needs to be understood.
    record: the record of the rows, below results/<scale>/, empty where there is none. images: behind each value.
    """

    cell: Cell
    values: dict[int, float]
    seeds: tuple[str, ...]
    unit: str
    images: int | None
    mean: float | None
    sd: float | None
    half: float | None
    difference: float | None
    verdict: str
    why: str
    record: str

    @property
    def n(self) -> int:
        """Repetitions that gave a number."""
        return len(self.values)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The measurements in one file; none where the file is absent."""
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


def compare(cells: Iterable[Cell], results: Path) -> list[Compared]:
    """Each cell beside its rows; `results` is results/<scale>."""
    files: dict[str, list[dict[str, Any]]] = {}
    found = []
    for cell in cells:
        for run in cell.runs:
            if run.rows not in files:
                files[run.rows] = read_rows(results / run.rows)
        beside = str(Path(cell.runs[0].rows).with_suffix(".record.json")) if cell.runs else ""
        record = beside if beside and (results / beside).is_file() else ""
        found.append(judge(cell, *(files[run.rows] for run in cell.runs), record=record))
    return found


def judge(cell: Cell, *rows: Sequence[Row], record: str = "") -> Compared:
    """One cell beside the rows of each of its runs; of several, each repetition's value is the mean over them."""
    key = [getattr(cell, field) for field in FIELDS]
    own = [
        {
            int(row["repetition"]): row
            for row in of_run
            if row["status"] == "ok" and [row.get(field, "") for field in FIELDS] == key
        }
        for of_run in rows
    ]
    there = sorted(set.intersection(*map(set, own))) if own else []
    lost = [row for of_run in rows for row in of_run if row["status"] == "diverged"]
    values = {number: statistics.fmean(float(one[number]["value"]) for one in own) for number in there}
    mean = statistics.fmean(values.values()) if values else None
    sd = statistics.stdev(values.values()) if len(values) > 1 else None
    unit = str(own[0][there[0]]["unit"]) if there else ""
    images = min(sum(int(one[number]["n"]) for one in own) for number in there) if there else None
    half = interval(mean, sd, len(values), unit, images, cell.printed_trials) if mean is not None else None
    comparable = mean is not None and cell.published is not None
    verdict, why = _verdict(cell, len(lost), len(lost) + len(values), mean, half)
    return Compared(
        cell=cell,
        values=values,
        seeds=tuple(str(own[0][number].get("seed", "")) for number in there),
        unit=unit,
        images=images,
        mean=mean,
        sd=sd,
        half=half,
        difference=mean - cell.published if comparable and mean is not None and cell.published is not None else None,
        verdict=verdict,
        why=why,
        record=record if any(rows) else "",
    )


def interval(
    mean: float, sd: float | None, n: int, unit: str, images: int | None, printed_trials: int = 1
) -> float | None:
    """Half the width of the interval of the module's rule; None where nothing gives one."""
    widths = []
    if sd is not None:
        widths.append(float(stdtrit(n - 1, 0.975)) * sd * math.sqrt(1 / printed_trials + 1 / n))
    if unit in SCALES and images:
        one = SCALES[unit]
        p = min(max(mean / one, 0.0), 1.0)
        widths += [one * math.sqrt(p * (1 - p) / images), one / images]
    return max(widths, default=None)


def _verdict(cell: Cell, lost: int, repetitions: int, mean: float | None, half: float | None) -> tuple[str, str]:
    if cell.note.startswith("not applicable"):
        return NOT_APPLICABLE, cell.note
    if cell.run is None:
        return NOT_RUN, cell.missing
    if lost:
        return DIVERGED, f"{lost} of {repetitions} repetitions diverged"
    if mean is None:
        return NOT_RUN, "not run yet"
    if cell.published is None:
        return (UNREADABLE if cell.note.startswith("unreadable") else NO_PUBLISHED), cell.note
    if cell.reductions:
        return STAND_IN, "; ".join(cell.reductions)
    if half is None:
        return NO_INTERVAL, "one repetition and no images to count"
    inside = abs(mean - cell.published) <= half + 1e-9
    return (AGREES if inside else DIFFERS), f"interval {mean:.6g} ± {half:.3g}"


def matches(cell: Cell, where: Where) -> bool:
    """Whether a cell has these fields: `{field: value}`, or `{field: [one of these]}`."""
    return all(
        getattr(cell, field) in ([wanted] if isinstance(wanted, str) else wanted) for field, wanted in where.items()
    )
