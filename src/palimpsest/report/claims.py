"""The papers' claims as checks, each evaluated over our numbers and over the printed ones.

A claim in paper.yaml names cells by a filter, and a check that each of them must pass. The check is a bound
(`at_least`, `at_most`), or a comparison with a partner, the cell that differs in the fields given: `no_less_than` or
`no_more_than` a `share` of the partner, give or take `tolerance`. All cells must pass, or with `most` more than half of
them.

A cell passes when all of its repetitions do, and fails when none does. Where its repetitions lie on both sides of the
bound it decides nothing. With `mean` the claim is about an average, and the mean over repetitions alone decides.
Partners are compared repetition by repetition, since the two share base model and forget set. A claim holds, or does
not, when the cells that are undecided or missing could not change that; else we cannot tell. The printed numbers have
no spread, and cells that the paper leaves blank are left out. So a paper may contradict itself.

With `given` the claim is judged only where other cells pass checks of their own, `given: [{says, cells, check}]`; else
we cannot tell, and where a check fails its `says` is the reason.

With `proportions` both numbers are proportions of attempts that share no random draw. The attempts of all repetitions
count together, and the interval of the difference of two proportions decides (`compare.two_proportions`), unless it
holds the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from palimpsest.pipeline import papers
from palimpsest.pipeline.cells import Cell
from palimpsest.pipeline.errors import ConfigError
from palimpsest.pipeline.papers import IDENTITY
from palimpsest.pipeline.values import named
from palimpsest.report import compare
from palimpsest.report.compare import Compared

Numbers = Callable[[Compared], Mapping[int, float]]


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Case:
    """One cell under a claim's check.

    margin: how far the cell lies above what the check wants, by repetition, or at both ends of an interval; it is empty
    where the cell has no number.
    """

    one: Compared
    margin: Mapping[int, float]
    partner: Compared | None = None

    @property
    def passes(self) -> bool | None:
        """Whether the cell passes; None where it has no number or its repetitions disagree."""
        met = {value >= -1e-9 for value in self.margin.values()}
        return met.pop() if len(met) == 1 else None


@dataclass(frozen=True)
class Outcome:
    """What became of a claim on one set of numbers."""

    verdict: Verdict
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A claim with its two verdicts.

    printed: the verdict on the paper's own numbers; None for a claim of ours. stand_in: whether a reduced run decided.
    data_sets: on which ours was judged.
    """

    says: str
    source: str
    bound: str
    ours: bool
    reproduced: Outcome
    printed: Outcome | None
    stand_in: bool
    data_sets: tuple[str, ...]


def evaluate(about: Mapping[str, Any], found: Sequence[Compared]) -> list[Claim]:
    """Evaluate every claim of a paper; `about` is the content of paper.yaml, `found` are all of its compared cells."""
    return [_claim(claim, found, about) for claim in about.get("claims", [])]


def _claim(claim: Mapping[str, Any], found: Sequence[Compared], about: Mapping[str, Any]) -> Claim:
    check = claim["check"]
    where = dict(claim["cells"]) | ({"table": claim["table"]} if "table" in claim else {})
    dash = compare.Verdict.NOT_APPLICABLE

    def cells(where: Mapping[str, Any]) -> list[Compared]:
        chosen = [one for one in found if compare.matches(one.cell, where) and one.verdict is not dash]
        if not chosen:
            raise ConfigError(f"paper.yaml: no cell matches the claim {claim['says']!r}.")
        return chosen

    chosen = cells(where)
    most, ours = bool(check.get("most")), _ours_mean if check.get("mean") else _ours
    cases = [_case(one, check, found, ours) for one in chosen]
    reproduced = _decide(cases, most, about, ours)
    for given in claim.get("given", ()):
        asked = [_case(one, given["check"], found, _ours_mean) for one in cells(given["cells"])]
        first = _decide(asked, False, about, _ours_mean)
        if first.verdict is not Verdict.HOLDS:
            reason = given["says"] if first.verdict is Verdict.FAILS else "what it presumes cannot be told"
            reproduced = Outcome(
                Verdict.CANNOT_TELL, f"not judged, since {reason} ({first.numbers.removesuffix('.')})."
            )
            break
    # A cell that the paper does not print (a method of ours, an unreadable row) cannot speak for the paper.
    theirs = [case for one in chosen if (case := _case(one, check, found, _published)).margin]
    none = Outcome(Verdict.CANNOT_TELL, "the paper prints none.")
    printed = _decide(theirs, most, about, _published) if theirs else none
    return Claim(
        says=claim["says"],
        source=claim["source"],
        bound=claim.get("bound", ""),
        ours=bool(claim.get("ours")),
        reproduced=reproduced,
        printed=None if claim.get("ours") else printed,
        stand_in=any(case.margin and case.one.cell.reductions for case in cases),
        data_sets=tuple(
            named(data_set, about.get("names", {}))
            for data_set in dict.fromkeys(run.dataset for case in cases if case.margin for run in case.one.cell.runs)
        ),
    )


def _ours(one: Compared) -> Mapping[int, float]:
    if one.cell.derive in papers.SPREADS:  # one number of all repetitions
        return _ours_mean(one)
    return {} if one.verdict is compare.Verdict.DIVERGED else one.values


def _ours_mean(one: Compared) -> Mapping[int, float]:
    return {} if one.verdict is compare.Verdict.DIVERGED or one.mean is None else {0: one.mean}


def _published(one: Compared) -> Mapping[int, float]:
    return {} if one.cell.published is None else {0: one.cell.published}


def _case(one: Compared, check: Mapping[str, Any], found: Sequence[Compared], numbers: Numbers) -> Case:
    own = numbers(one)
    if "at_least" in check:
        return Case(one, {k: value - check["at_least"] for k, value in own.items()})
    if "at_most" in check:
        return Case(one, {k: check["at_most"] - value for k, value in own.items()})
    sign, differs = (1, check["no_less_than"]) if "no_less_than" in check else (-1, check["no_more_than"])
    wanted = _identity(replace(one.cell, **differs))
    partner = next((other for other in found if _identity(other.cell) == wanted), None)
    share, slack = check.get("share", 1), check.get("tolerance", 0)
    if check.get("proportions"):
        both = [_attempts(each, numbers) for each in (one, partner) if each]
        if len(both) < 2 or not all(both):
            return Case(one, {}, partner)
        ends = compare.two_proportions(*(each for each in both if each))
        return Case(one, {k: sign * compare.SCALES[one.unit] * end + slack for k, end in enumerate(ends)}, partner)
    pairs = compare.paired(one.cell, own, partner.cell, numbers(partner)) if partner else {}
    return Case(one, {k: sign * (mine - share * its) + slack for k, (mine, its) in pairs.items()}, partner)


def _attempts(one: Compared, numbers: Numbers) -> tuple[float, int] | None:
    """Return the successes and attempts behind a number, ours or the printed one."""
    if not numbers(one):
        return None
    return compare.published_successes(one) if numbers is _published else one.successes


def _identity(cell: Cell) -> tuple[str, ...]:
    return (cell.table, *(str(getattr(cell, field)) for field in IDENTITY))


def _decide(cases: Sequence[Case], most: bool, about: Mapping[str, Any], numbers: Numbers) -> Outcome:
    passed = sum(case.passes is True for case in cases)
    failed = sum(case.passes is False for case in cases)
    empty = [case for case in cases if not case.margin]
    total, verdict = len(cases), Verdict.CANNOT_TELL
    if passed > total / 2 if most else passed == total:
        verdict = Verdict.HOLDS
    elif failed >= total / 2 if most else failed:
        verdict = Verdict.FAILS
    said = [f"{passed} of {total} cells pass"]
    if failed:
        said.append(f"{failed} fail")
    if straddle := total - passed - failed - len(empty):
        said.append(f"{straddle} lie on both sides of the bound")
    if empty:
        said.append(f"{len(empty)} have no number ({_why(empty, about)})")
    text = ", ".join(said)
    if counted := [case for case in cases if case.margin]:
        worst = min(counted, key=lambda case: sum(case.margin.values()) / len(case.margin))
        number = _number(worst.one, numbers) + (f" against {_number(worst.partner, numbers)}" if worst.partner else "")
        which = "The furthest off" if worst.passes is False else "The closest"
        text += f". {which} is {_name(worst.one.cell, about)}: {number}"
    return Outcome(verdict, text + ".")


def _why(empty: Sequence[Case], about: Mapping[str, Any]) -> str:
    """Return why cells have no number: each reason once, with the unlearners that it concerns."""
    names = about.get("names", {})
    found: dict[str, dict[str, None]] = {}
    for case in empty:
        one = case.one
        shown = one.verdict in (compare.Verdict.NOT_RUN, compare.Verdict.DIVERGED)
        reason = one.short if shown else "without a partner"
        found.setdefault(reason, {})[named(one.cell.unlearner, names)] = None
    return "; ".join(f"{reason}: {', '.join(unlearners)}" for reason, unlearners in found.items())


def _name(cell: Cell, about: Mapping[str, Any]) -> str:
    names = about.get("names", {})
    items = {**about.get("tables", {}), **about.get("figures", {})}
    table = items.get(cell.table, {}).get("title", cell.table).split(".")[0]
    parts = [table, named(cell.dataset, names), named(cell.unlearner, names)]
    if cell.screening:
        how = f"{cell.attack} {cell.screening}"
        parts = [table, names.get(how, how), *parts[1:]]
    return ", ".join([*parts, *([f"ε = {cell.epsilon}"] if cell.epsilon else [])])


def _number(one: Compared, numbers: Numbers) -> str:
    values = list(numbers(one).values())
    spread = f" ± {one.sd:.2g}" if one.sd is not None and numbers is not _published else ""
    return f"{sum(values) / len(values):.4g}{spread}"
