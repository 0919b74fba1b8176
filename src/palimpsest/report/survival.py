"""What is left of an attack on labels beside two rivals that know nothing.

One says "nothing was forgotten", whatever the server: `trivial_asr`. The other is the attack itself on a server that
forgot nothing: where it names the class there as often, it reads the request's class off something else. Both share
base model and forget set with the attack, so they are compared repetition by repetition. An attack survives where the
95% interval of the mean difference (Student's t) lies above zero against both; where an interval holds zero, or there
is no interval, we cannot tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.special import stdtrit

from palimpsest.pipeline.cells import ORIGINAL, SEVERAL
from palimpsest.report import compare
from palimpsest.report.compare import Compared

RATE, TRIVIAL, NOTHING_FORGOTTEN = "asr_class_decisions", "trivial_asr", "nothing was forgotten"
SURVIVES, FAILS, CANNOT_TELL = "survives", "does not", "cannot tell"


@dataclass(frozen=True)
class Against:
    """An attack beside one rival, over the n repetitions that both have: means, their difference, half its interval.

    half: None where there is no interval: one repetition, or no spread, which a coarse grid of decisions can give.
    """

    n: int
    ours: float
    rival: float
    difference: float
    half: float | None

    @property
    def wins(self) -> bool | None:
        """Whether the attack is above its rival; None where that cannot be told."""
        if self.half is None or abs(self.difference) <= self.half:
            return None
        return self.difference > 0


@dataclass(frozen=True)
class Survival:
    """One attack, its mean over unlearners and data sets, beside both rivals."""

    one: Compared
    trivial: Against | None
    nothing: Against | None

    @property
    def verdict(self) -> str:
        """One of this module's constants."""
        wins = [rival.wins if rival else None for rival in (self.trivial, self.nothing)]
        return FAILS if False in wins else CANNOT_TELL if None in wins else SURVIVES


def survivals(found: Sequence[Compared], results: Path) -> list[Survival]:
    """Every attack on labels among `found` that is a mean over unlearners; `results` is results/<scale>."""
    made = []
    for one in found:
        cell = one.cell
        if cell.metric != RATE or cell.control or SEVERAL not in cell.unlearner or not one.values:
            continue
        (trivial,) = compare.compare([replace(cell, metric=TRIVIAL)], results)
        where = {name: getattr(cell, name) for name in ("table", "dataset", "forget", "attack", "screening", "metric")}
        control = {**where, "unlearner": ORIGINAL, "control": NOTHING_FORGOTTEN}
        partners = [other for other in found if compare.matches(other.cell, control) and other.values]
        nothing = _against(one.values, partners[0].values) if partners else None
        made.append(Survival(one, _against(one.values, trivial.values), nothing))
    return made


def _against(ours: Mapping[int, float], rival: Mapping[int, float]) -> Against | None:
    """Over the repetitions that both have; None where they share none."""
    shared = ours.keys() & rival.keys()
    if not shared:
        return None
    differences = [ours[number] - rival[number] for number in sorted(shared)]
    half = None
    if len(differences) > 1:
        spread = statistics.stdev(differences) / math.sqrt(len(differences))
        half = float(stdtrit(len(differences) - 1, 0.975)) * spread or None
    mean, other = (statistics.fmean(values[number] for number in shared) for values in (ours, rival))
    return Against(len(shared), mean, other, mean - other, half)
