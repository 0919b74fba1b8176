"""Our numbers beside the published ones: for each cell of a table the mean over repetitions, its spread, and a verdict.

The rule: a published number is a single run of somebody else, or the mean of k runs (`printed_trials` in paper.yaml).
It is held against the interval in which the mean of k more runs of ours would fall: mean ± h, where h is the largest of

    t(0.975, n - 1) · sd · sqrt(1/k + 1/n)  the 95% prediction interval over n repetitions (n >= 2),
    sqrt(p (1 - p) / m)                     one standard error of a proportion p = mean over m images,
    1 / m                                   one image, the step of the grid on which such a number lies.

An interval of percentages or fractions that is wider than `widest_interval` of the configuration, from end to end,
agrees with much: a number that lies in it is called too wide to tell.

The last two hold only for percentages and fractions. Two repetitions give a wide interval (t = 12.7), so an agreement
then shows little; this is why n stands beside every number. A number of another unit that was run once has no interval.

A proportion of attempts (its rows are of kind `attempts`) is held against the printed one by the interval of the
difference of two proportions (`two_proportions`). The attempts of all repetitions count together, and `printed_trials`
are the paper's attempts. A standard deviation is held against a printed one of k trials by the F distribution of the
ratio of two variances, and so is a standard error, as if ours were of k trials too.

A cell with reductions (stand-in data, network or forget set, or a cut budget) is never compared. Nor is a cell of which
a repetition diverged: the mean of the surviving runs would flatter. Nor are seconds, which another machine gives
otherwise; a ratio of seconds is.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

from scipy.special import fdtri, stdtrit

from palimpsest.pipeline import papers, paths
from palimpsest.pipeline.cells import Cell
from palimpsest.pipeline.values import STEP, Status


class Verdict(StrEnum):
    """What became of a cell.

    sign: how the verdict looks in text, the same in every format, so that nothing depends on colour alone.
    """

    sign: str
    meaning: str

    def __new__(cls, value: str, sign: str = "", meaning: str = "") -> Verdict:
        made = str.__new__(cls, value)
        made._value_, made.sign, made.meaning = value, sign, meaning
        return made

    AGREES = "agrees", "=", "the published number lies in our interval"
    TOO_WIDE = "too wide to tell", "↔", "the published number lies in our interval, which is too wide to tell anything"
    DIFFERS = "differs", "≠", "the published number lies outside our interval"
    STAND_IN = "stand-in", "~", "ours ran on a stand-in or a reduced budget, so the two cannot be compared"
    DIVERGED = "diverged", "!", "a repetition diverged, so nothing is compared"
    ELSEWHERE = "another machine", "≈", "seconds of another machine than the paper's, so the two are not compared"
    UNREADABLE = "unreadable", "?", "the published number cannot be read"
    CALIBRATED = (
        "calibrated",
        "○",
        "a value of ours was chosen so that this number comes out, so it is not judged",
    )
    NO_INTERVAL = "no interval", "1", "ours ran once, so it has no interval"
    NOT_APPLICABLE = "not applicable", "–"
    NOT_RUN = "not run"
    NO_PUBLISHED = "no published value"


JUDGED = (Verdict.AGREES, Verdict.DIFFERS, Verdict.TOO_WIDE)
FIELDS = ("attack", "epsilon", "defense", "screening", "metric")  # what a measurement and a cell have in common
SCALES = {"%": 100.0, "fraction": 1.0}  # units of proportions, and what 1 is in them
ATTEMPTS = "attempts"  # the kind of a measure that counts how many of `n` attempts succeeded
SECONDS = "seconds"  # the kind of a measure that another machine gives otherwise
NOT_YET = "not run yet"

Row = Mapping[str, Any]
Where = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Compared:
    """One cell with what was found for it.

    values: by repetition, in the cell's unit. sd: the sample standard deviation (ddof 1); None for one repetition.
    half: the h of the module's rule. difference: ours minus the published number. why: what one must know to understand
    the verdict. record: the record of the rows, below results/<scale>/; empty where there is none. images: how many
    images stand behind each value. successes: for a proportion of attempts, how many succeeded and how many there were,
    over all repetitions. kind: what the numbers are (`families.KINDS`). devices: on which seconds were taken. winner:
    where the cell is the highest or lowest of several, the name of that one, of chains from the first step on in which
    they differ. marks: what its row must say of itself (`marks.Mark`).
    """

    cell: Cell
    values: dict[int, float]
    seeds: tuple[str, ...]
    unit: str
    images: int | None
    mean: float | None
    sd: float | None
    record: str
    half: float | None = None
    difference: float | None = None
    verdict: Verdict = Verdict.NOT_RUN
    why: str = NOT_YET
    successes: tuple[float, int] | None = None
    kind: str = ""
    devices: tuple[str, ...] = ()
    winner: str = ""
    marks: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many repetitions gave a number."""
        return len(self.values)

    @property
    def short(self) -> str:
        """What stands in the place of a missing number."""
        if self.verdict is Verdict.NOT_RUN:
            return str(self.cell.missing.why) if self.cell.missing else NOT_YET
        return self.verdict.sign if self.verdict is Verdict.NOT_APPLICABLE else str(self.verdict)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The measurements in one file; none where the file is absent."""
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


def compare(cells: Iterable[Cell], results: Path) -> list[Compared]:
    """Each cell beside its rows; `results` is results/<scale>."""
    files: dict[str, list[dict[str, Any]]] = {}

    def one(cell: Cell) -> Compared:
        if cell.parts:
            return derive(cell, [one(part) for part in cell.parts])
        for run in cell.runs:
            if run.rows not in files:
                files[run.rows] = read_rows(results / run.rows)
        beside = paths.record_of(cell.runs[0].rows) if cell.runs else ""
        record = beside if beside and (results / beside).is_file() else ""
        return judge(cell, *(files[run.rows] for run in cell.runs), record=record)

    return [one(cell) for cell in cells]


def how_many(cells: Iterable[Cell], results: Path) -> tuple[int, int]:
    """Return how many cells have their numbers or diverged, and how many can be computed at this scale."""
    found = [one for one in compare(cells, results) if one.cell.runs]
    return sum(bool(one.values) or one.verdict is Verdict.DIVERGED for one in found), len(found)


def judge(cell: Cell, *rows: Sequence[Row], record: str = "") -> Compared:
    """Compare one cell with the rows of its runs; with several runs a repetition's value is the mean over them."""
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
    lost = sum(row["status"] == "diverged" for of_run in rows for row in of_run)
    values = {number: statistics.fmean(float(one[number]["value"]) for one in own) for number in there}
    unit = str(own[0][there[0]]["unit"]) if there else ""
    counted = [one[number] for one in own for number in there]
    successes = None
    if counted and all(row.get("kind") == ATTEMPTS for row in counted):
        attempts = sum(int(row["n"]) for row in counted)
        successes = sum(float(row["value"]) / SCALES[unit] * int(row["n"]) for row in counted), attempts
    empty = Compared(
        cell=cell, values=values, unit=unit, successes=successes, **_spread(values),
        kind=str(counted[0].get("kind", "")) if counted else "",
        devices=tuple(sorted({row["device"] for row in counted if "device" in row})),
        seeds=tuple(str(own[0][number].get("seed", "")) for number in there),
        images=min(sum(int(one[number]["n"]) for one in own) for number in there) if there else None,
        record=record if any(rows) else "",
    )  # fmt: skip
    half = interval(empty.mean, empty.sd, empty.n, unit, empty.images, cell.printed_trials)
    return _judged(replace(empty, half=half), lost)


def derive(cell: Cell, parts: Sequence[Compared]) -> Compared:
    """Return a cell whose number comes from those of other cells; `pipeline.papers` describes the notation.

    A difference or ratio is taken by repetition (`paired`). A highest or lowest is that part's own number.
    """
    lost = sum(one.verdict is Verdict.DIVERGED for one in parts)
    how, found = papers.DERIVED.fullmatch(cell.derive), parts[0]
    if cell.derive in papers.SPREADS:
        mean = None if found.sd is None else found.sd / found.n ** papers.SPREADS[cell.derive]
        return _judged(replace(found, mean=mean, sd=None, half=None, successes=None, cell=cell), lost)
    assert how  # the configuration was checked
    if how["best"]:
        several = parts[:-1] if how["held"] else parts
        if all(one.mean is not None for one in several):
            found = papers.BEST[how["best"]](several, key=lambda one: one.mean or 0.0)
            chains = [getattr(one.cell, how["field"]).split(STEP) for one in several]
            alike = sum(1 for _ in takewhile(lambda names: len({*names}) == 1, zip(*chains, strict=False)))
            found = replace(found, winner=STEP.join(getattr(found.cell, how["field"]).split(STEP)[alike:]))
        else:
            found = replace(found, values={}, mean=None, sd=None, half=None)
    if how["held"]:
        both = paired(found.cell, found.values, parts[-1].cell, parts[-1].values)
        if how["held"] != "minus":  # a ratio, of which neither number may be 0
            both = {number: pair for number, pair in both.items() if all(pair)}
            found = replace(found, unit="×", kind="")
        values = {number: papers.HELD[how["held"]](*pair) for number, pair in both.items()}
        found = replace(found, values=values, successes=None, **_spread(values))
        found = replace(found, half=interval(found.mean, found.sd, found.n, "", None, cell.printed_trials))
    return _judged(replace(found, cell=cell), lost)


def paired(
    first: Cell, own: Mapping[int, float], second: Cell, other: Mapping[int, float]
) -> dict[int, tuple[float, float]]:
    """Return two cells' numbers side by side, by the repetitions that both have.

    The one base model from which all repetitions begin stands beside each of them.
    """
    own = dict.fromkeys(other, own[0]) if first.alone and own else own
    other = dict.fromkeys(own, other[0]) if second.alone and other else other
    return {number: (own[number], other[number]) for number in own if number in other}


def _spread(values: Mapping[int, float]) -> dict[str, Any]:
    """Return mean and sample standard deviation of the repetitions."""
    return {
        "mean": statistics.fmean(values.values()) if values else None,
        "sd": statistics.stdev(values.values()) if len(values) > 1 else None,
    }


def interval(
    mean: float | None, sd: float | None, n: int, unit: str, images: int | None, printed_trials: int = 1
) -> float | None:
    """Return half the width of the interval of the module's rule; None where nothing gives one."""
    widths = []
    if sd is not None:
        widths.append(float(stdtrit(n - 1, 0.975)) * sd * math.sqrt(1 / printed_trials + 1 / n))
    if unit in SCALES and images and mean is not None:
        one = SCALES[unit]
        p = min(max(mean / one, 0.0), 1.0)
        widths += [one * math.sqrt(p * (1 - p) / images), one / images]
    return max(widths, default=None)


def two_proportions(first: tuple[float, int], second: tuple[float, int]) -> tuple[float, float]:
    """Return the 95% interval of p1 - p2, from (successes, attempts) of each: Newcombe's hybrid of Wilson's intervals.

    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998),
    method 10.
    """
    from scipy.stats import binomtest  # slow to import, and few papers count attempts

    tests = [binomtest(round(successes), n) for successes, n in (first, second)]
    p, q = (test.statistic for test in tests)
    (low, high), (least, most) = (test.proportion_ci(0.95, method="wilson") for test in tests)
    return p - q - math.hypot(p - low, most - q), p - q + math.hypot(high - p, q - least)


def published_successes(one: Compared) -> tuple[float, int] | None:
    """Return the printed number as (successes, attempts), where ours counts attempts too."""
    if one.cell.published is None or one.successes is None:
        return None
    return one.cell.published / SCALES[one.unit] * one.cell.printed_trials, one.cell.printed_trials


def _judged(one: Compared, lost: int) -> Compared:
    """Return the cell with its difference and its verdict. lost: how many repetitions diverged."""
    published = one.cell.published
    if one.mean is not None and published is not None:
        one = replace(one, difference=one.mean - published)
    verdict, why = _verdict(one, lost)
    return replace(one, verdict=verdict, why=why)


def _verdict(one: Compared, lost: int) -> tuple[Verdict, str]:
    cell = one.cell
    if cell.status is Status.NOT_APPLICABLE:
        return Verdict.NOT_APPLICABLE, cell.note
    if cell.run is None:
        return Verdict.NOT_RUN, str(cell.missing)
    if lost:
        return Verdict.DIVERGED, f"{lost} of {lost + one.n} repetitions diverged"
    if one.mean is None:
        return Verdict.NOT_RUN, NOT_YET
    if cell.published is None:
        return (Verdict.UNREADABLE if cell.status is Status.UNREADABLE else Verdict.NO_PUBLISHED), cell.note
    if cell.reductions:
        return Verdict.STAND_IN, "; ".join(map(str, cell.reductions))
    if cell.status is Status.CALIBRATED:
        return Verdict.CALIBRATED, cell.note
    if one.kind == SECONDS:
        return Verdict.ELSEWHERE, f"measured on another machine: {'; '.join(one.devices)}"
    if one.successes and (theirs := published_successes(one)):
        low, high = two_proportions(one.successes, theirs)
        inside, why = low <= 0 <= high, f"difference of two proportions from {low:.3g} to {high:.3g}"
        width = (high - low) * SCALES[one.unit]
    elif cell.derive in papers.SPREADS and one.n > 1 and cell.printed_trials > 1:
        by = one.mean * (one.n / cell.printed_trials) ** papers.SPREADS[cell.derive]  # as of so many trials
        low, high = (by * math.sqrt(fdtri(cell.printed_trials - 1, one.n - 1, p)) for p in (0.025, 0.975))
        inside, why = low <= cell.published <= high, f"from {low:.3g} to {high:.3g}"
        width = high - low
    elif one.half is None:
        return Verdict.NO_INTERVAL, "one repetition, and nothing to count"
    else:
        inside, why = abs(one.mean - cell.published) <= one.half + 1e-9, f"interval {one.mean:.6g} ± {one.half:.3g}"
        width = 2 * one.half
    if inside and one.unit in SCALES and 100 * width / SCALES[one.unit] > cell.widest_interval:
        return Verdict.TOO_WIDE, why
    return (Verdict.AGREES if inside else Verdict.DIFFERS), why


def matches(cell: Cell, where: Where) -> bool:
    """Whether a cell has these fields: `{field: value}`, or `{field: [one of these]}`."""
    return all(
        getattr(cell, field) in ([wanted] if isinstance(wanted, str) else wanted) for field, wanted in where.items()
    )
