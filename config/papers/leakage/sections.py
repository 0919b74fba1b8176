"""A section of the page: what is left of an attack on labels beside two rivals that know nothing.

The first rival always says "nothing was forgotten": `trivial_asr`. The second is the attack itself on a server that
forgot nothing: where it names the class there as often, it recognises something else than forgetting. Both rivals share
base model and forget set with the attack, so they are compared repetition by repetition. An attack survives where the
95% interval of the mean difference (Student's t) lies above zero against both; where an interval holds zero, or there
is no interval, we cannot tell. ASR rewards an attacker who names no class, since most were kept. So an attack below the
first rival may still know something, which its balanced accuracy beside the second shows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from scipy.special import stdtrit

from palimpsest.pipeline.cells import ORIGINAL, Cell
from palimpsest.pipeline.values import SEVERAL
from palimpsest.report import compare
from palimpsest.report.compare import SCALES, Compared
from palimpsest.report.page import Context

RATE, TRIVIAL, BALANCED = "asr_class_decisions", "trivial_asr", "balanced_accuracy"
NOTHING_FORGOTTEN, CORRECTED = "nothing was forgotten", "mended"  # controls, as the tables' CSV names them


class Verdict(StrEnum):
    """What became of an attack beside its rivals."""

    SURVIVES = "survives"
    FAILS = "does not"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Against:
    """An attack beside one rival, over the n repetitions that both have: means, their difference, half its interval.

    half: None for one repetition.
    """

    n: int
    ours: float
    rival: float
    difference: float
    half: float | None

    @property
    def wins(self) -> bool | None:
        """Whether the attack is above its rival; None where it cannot be decided."""
        if self.half is None or abs(self.difference) <= self.half:
            return None
        return self.difference > 0


@dataclass(frozen=True)
class Survival:
    """One attack, as its mean over unlearners and data sets, beside both rivals.

    trivial, nothing: ASR beside that of each rival. balanced: balanced accuracy, which is 50 for an attacker who knows
    nothing, beside the attack's on servers that forgot nothing.
    """

    one: Compared
    trivial: Against | None
    nothing: Against | None
    balanced: Against | None

    @property
    def verdict(self) -> Verdict:
        """The verdict on ASR."""
        wins = [rival.wins if rival else None for rival in (self.trivial, self.nothing)]
        if False in wins:
            return Verdict.FAILS
        return Verdict.CANNOT_TELL if None in wins else Verdict.SURVIVES

    @property
    def knows(self) -> bool:
        """Whether it has more balanced accuracy on servers that forgot than on those that did not."""
        return bool(self.balanced and self.balanced.wins)


def sections(context: Context) -> list[tuple[str, str]]:
    """Return the section, where any attack was run."""
    found = survivals(context.found, context.results)
    return [("What survives", context.render("survival.html.j2", survivals=found))] if found else []


def survivals(found: Sequence[Compared], results: Path) -> list[Survival]:
    """Return every attack on labels among `found` that is a mean over unlearners; `results` is results/<scale>.

    An attack's corrected decision rules, which have no average in the paper, follow it.
    """
    made = []
    for one in found:
        cell = one.cell
        if cell.metric != RATE or cell.control or SEVERAL not in cell.unlearner or not one.values:
            continue
        here = {name: getattr(cell, name) for name in ("table", "dataset", "forget", "attack", "metric")}
        partner = {**here, "screening": cell.screening, "unlearner": ORIGINAL, "control": NOTHING_FORGOTTEN}
        control = next((other.cell for other in found if compare.matches(other.cell, partner)), None)
        mended = [other.cell for other in found if compare.matches(other.cell, {**here, "control": CORRECTED})]
        made.append(_survival(cell, control, results))
        for screening in dict.fromkeys(other.screening for other in mended):
            if screening.startswith(cell.screening):
                own = replace(cell, screening=screening, published=None)
                made.append(_survival(own, control and replace(control, screening=screening), results))
    return [survival for survival in made if survival.one.values]


def _survival(cell: Cell, control: Cell | None, results: Path) -> Survival:
    """Return an attack beside its rivals. control: its cell on servers that forgot nothing."""
    metrics = (RATE, TRIVIAL, BALANCED)
    rate, trivial, balanced = compare.compare([replace(cell, metric=metric) for metric in metrics], results)
    if not control:
        return Survival(rate, _against(rate, trivial), None, None)
    nothing, idle = compare.compare([replace(control, metric=metric) for metric in (RATE, BALANCED)], results)
    return Survival(rate, _against(rate, trivial), _against(rate, nothing), _against(balanced, idle))


def _against(ours: Compared, rival: Compared) -> Against | None:
    """Compare over the repetitions that both have; None where they share none."""
    shared = sorted(ours.values.keys() & rival.values.keys())
    if not shared:
        return None
    differences = [ours.values[number] - rival.values[number] for number in shared]
    half = None
    if len(shared) > 1:
        # Values lie on a grid of one decision; equal ones may differ by what its rounding hides, step / sqrt(12).
        least = SCALES[ours.unit] / (ours.images or 1) / math.sqrt(12)
        spread = max(statistics.stdev(differences), least) / math.sqrt(len(shared))
        half = float(stdtrit(len(shared) - 1, 0.975)) * spread
    mean, other = (statistics.fmean(one.values[number] for number in shared) for one in (ours, rival))
    return Against(len(shared), mean, other, mean - other, half)
