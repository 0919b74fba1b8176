"""A section of the page: what is left of an attack on labels beside two rivals that know nothing.

The first rival always says "nothing was forgotten": `trivial_asr`. The second is the attack itself on a server that
forgot nothing: where it names the class there as often, it recognises something else than forgetting. Both rivals share
base model and forget set with the attack, so they are compared repetition by repetition, by Student's t, and since
there are two tests of each attack, all p values of a list are corrected for their number by Holm's rule. An attack
survives where both corrected p values lie below 5% and both mean differences above zero; where one of them decides
nothing, we cannot tell, and where its 95% interval is wider than the configuration's `widest_interval`, it is too wide
to tell. ASR rewards an attacker who names no class, since most were kept. So an attack below the first rival may still
know something, which its balanced accuracy beside the second shows. One unlearner can decide such a mean, and NG does,
so every attack stands there a second time without it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from scipy.special import stdtr, stdtrit

from palimpsest.pipeline.cells import ORIGINAL, Cell
from palimpsest.pipeline.values import SEVERAL, named
from palimpsest.report import compare
from palimpsest.report.compare import SCALES, Compared
from palimpsest.report.page import Context

RATE, TRIVIAL, BALANCED = "asr_class_decisions", "trivial_asr", "balanced_accuracy"
# Controls, as the tables' CSV names them: the reading by class, the same on servers that forgot nothing, our own rules.
READINGS = {"": "nothing was forgotten", "per class": "per class, nothing was forgotten"}
CORRECTED = "mended"
WITHOUT = "negative_gradient_held"  # the unlearner that decides the means
LEVEL = 0.05


class Verdict(StrEnum):
    """What became of an attack beside its rivals."""

    SURVIVES = "survives"
    FAILS = "does not"
    CANNOT_TELL = "cannot tell"
    TOO_WIDE = "too wide to tell"


@dataclass(frozen=True)
class Against:
    """An attack beside one rival, over the n repetitions that both have: means, their difference, half its interval.

    half, p: None for one repetition; p is two-sided, and corrected for the number of tests once `holm` has seen it.
    """

    n: int
    ours: float
    rival: float
    difference: float
    half: float | None
    p: float | None

    @property
    def wins(self) -> bool | None:
        """Whether the attack is above its rival; None where it cannot be decided."""
        return None if self.p is None or self.p > LEVEL else self.difference > 0


@dataclass(frozen=True)
class Survival:
    """One attack, as its mean over unlearners and data sets, beside both rivals.

    trivial, nothing: ASR beside that of each rival. balanced: balanced accuracy, which is 50 for an attacker who knows
    nothing, beside the attack's on servers that forgot nothing. whole: whether all unlearners are in the mean. widest:
    the widest interval that can tell anything, in points.
    """

    one: Compared
    trivial: Against | None
    nothing: Against | None
    balanced: Against | None
    whole: bool
    widest: float

    @property
    def verdict(self) -> Verdict:
        """The verdict on ASR."""
        rivals = (self.trivial, self.nothing)
        wins = [rival.wins if rival else None for rival in rivals]
        if False in wins:
            return Verdict.FAILS
        if None not in wins:
            return Verdict.SURVIVES
        undecided = [rival for rival, won in zip(rivals, wins, strict=True) if rival and won is None]
        wide = [rival for rival in undecided if rival.half is not None and 2 * rival.half > self.widest]
        return Verdict.TOO_WIDE if wide else Verdict.CANNOT_TELL

    @property
    def knows(self) -> bool:
        """Whether it has more balanced accuracy on servers that forgot than on those that did not."""
        return bool(self.balanced and self.balanced.wins)


def sections(context: Context) -> list[tuple[str, str]]:
    """Return the section, where any attack was run."""
    found = survivals(context.found, context.results, context.plan.config["widest_interval"])
    if not found:
        return []
    ran = dict.fromkeys(run.dataset for each in found for run in each.one.cell.runs)
    data_sets = ", ".join(named(name, context.about.get("names", {})) for name in ran)
    return [("What survives", context.render("survival.html.j2", survivals=found, data_sets=data_sets))]


def survivals(found: Sequence[Compared], results: Path, widest: float) -> list[Survival]:
    """Return every attack on labels among `found` that is a mean over unlearners; `results` is results/<scale>.

    An attack's corrected decision rules, which have no average in the paper, follow it. Then all follow once more
    without the unlearner that decides the means.
    """
    asked: list[tuple[Cell, Cell | None]] = []
    for one in found:
        cell = one.cell
        if cell.metric != RATE or SEVERAL not in cell.unlearner or cell.control not in READINGS or not one.values:
            continue
        here = {name: getattr(cell, name) for name in ("table", "dataset", "forget", "attack", "metric")}
        partner = {**here, "screening": cell.screening, "unlearner": ORIGINAL, "control": READINGS[cell.control]}
        control = next((other.cell for other in found if compare.matches(other.cell, partner)), None)
        mended = [other.cell for other in found if compare.matches(other.cell, {**here, "control": CORRECTED})]
        asked.append((cell, control))
        for screening in dict.fromkeys(other.screening for other in mended):
            if screening.startswith(cell.screening):
                own = replace(cell, screening=screening, published=None)
                asked.append((own, control and replace(control, screening=screening)))
    fewer = [(_without(cell), control) for cell, control in asked if any(r.unlearner == WITHOUT for r in cell.runs)]
    made = []
    for whole, cells in ((True, asked), (False, fewer)):
        every = [_survival(cell, rival, results, whole, widest) for cell, rival in cells]
        made += holm([survival for survival in every if survival.one.values])
    return made


def _survival(cell: Cell, control: Cell | None, results: Path, whole: bool, widest: float) -> Survival:
    """Return an attack beside its rivals. control: its cell on servers that forgot nothing."""
    metrics = (RATE, TRIVIAL, BALANCED)
    rate, trivial, balanced = compare.compare([replace(cell, metric=metric) for metric in metrics], results)
    if not control:
        return Survival(rate, _against(rate, trivial), None, None, whole, widest)
    nothing, idle = compare.compare([replace(control, metric=metric) for metric in (RATE, BALANCED)], results)
    return Survival(rate, _against(rate, trivial), _against(rate, nothing), _against(balanced, idle), whole, widest)


def holm(made: Sequence[Survival]) -> list[Survival]:
    """Return them with the p values on ASR corrected for their number, and those on balanced accuracy for theirs."""
    for names in (("trivial", "nothing"), ("balanced",)):
        tests = [
            (place, name, rival.p)
            for place, each in enumerate(made)
            for name in names
            if (rival := getattr(each, name)) and rival.p is not None
        ]
        made, highest = list(made), 0.0
        for rank, (place, name, p) in enumerate(sorted(tests, key=lambda test: test[2])):
            highest = max(highest, min(1.0, p * (len(tests) - rank)))
            made[place] = replace(made[place], **{name: replace(getattr(made[place], name), p=highest)})
    return list(made)


def _without(cell: Cell) -> Cell:
    """Return a mean over unlearners without one of them."""
    runs = tuple(run for run in cell.runs if run.unlearner != WITHOUT)
    names = SEVERAL.join(name for name in cell.unlearner.split(SEVERAL) if name != WITHOUT)
    return replace(cell, unlearner=names, runs=runs, published=None)


def _against(ours: Compared, rival: Compared) -> Against | None:
    """Compare over the repetitions that both have; None where they share none."""
    shared = sorted(ours.values.keys() & rival.values.keys())
    if not shared:
        return None
    differences = [ours.values[number] - rival.values[number] for number in shared]
    mean, other = (statistics.fmean(one.values[number] for number in shared) for one in (ours, rival))
    half = p = None
    if len(shared) > 1:
        # Values lie on a grid of one decision; equal ones may differ by what its rounding hides, step / sqrt(12).
        least = SCALES[ours.unit] / (ours.images or 1) / math.sqrt(12)
        spread = max(statistics.stdev(differences), least) / math.sqrt(len(shared))
        half = float(stdtrit(len(shared) - 1, 0.975)) * spread
        p = 2 * float(stdtr(len(shared) - 1, -abs(mean - other) / spread))
    return Against(len(shared), mean, other, mean - other, half, p)
