"""Two sections of the page: the five runs one by one, and twins beside random spares and beside no spares.

Every healing setup begins from the same unlearned model and has the same five seeds, so setups are compared seed by
seed: the mean difference, and its 95% interval by Student's t. The paper compares the best of four kinds of twins with
a single run of random spares, and calls twins the best of five setups of which four are twins. If the kind of spares
did nothing, the best of five would be a twin four times of five, and each comparison here would favour twins as often
as not.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from palimpsest.pipeline.cells import Cell
from palimpsest.report.compare import SCALES, Compared
from palimpsest.report.page import Context

RIVALS = ("random", "remaining")
HEAL = "heal"  # how the names of the setups begin: heal_<data>_<epochs>


@dataclass(frozen=True)
class Pair:
    """One kind of twins beside one rival from the same start, over the n seeds that both have.

    half: half of the 95% interval of the mean difference; None for one seed.
    """

    twins: Cell
    rival: str
    n: int
    difference: float
    half: float | None

    @property
    def place(self) -> tuple[str, str]:
        """Its data set and its request."""
        return self.twins.dataset, self.twins.forget

    @property
    def better(self) -> bool | None:
        """Whether twins are better; None where the interval holds zero or there is none."""
        return None if self.half is None or abs(self.difference) <= self.half else self.difference > 0


def sections(context: Context) -> list[tuple[str, str]]:
    """Return the sections of which there are numbers."""
    made = []
    of_start = [one for one in context.found if one.cell.table == "table6" and not one.cell.derive]
    if runs := [one for one in of_start if one.values and one.unit == "%"]:
        nearest = [min(one.values, key=lambda number: abs(one.values[number] - (one.mean or 0))) for one in runs]
        made.append(("The runs one by one", context.render("runs.html.j2", runs=list(zip(runs, nearest, strict=True)))))
    if found := pairs(context.found):
        counts = {rival: Counter(pair.better for pair in found if pair.rival == rival) for rival in RIVALS}
        signs = {rival: sum(pair.difference > 0 for pair in found if pair.rival == rival) for rival in RIVALS}
        made.append(("Twins against others", context.render("twins.html.j2", pairs=found, counts=counts, signs=signs)))
    return made


def pairs(found: Sequence[Compared]) -> list[Pair]:
    """Return every kind of twins in the table of setups beside each of its rivals."""
    of = {_key(one.cell): one for one in found if one.cell.table == "setups" and one.values}
    made = []
    for (place, start, data, epochs), one in of.items():
        for rival in RIVALS if data and data not in RIVALS else ():
            other = of.get((place, start, rival, epochs))
            if other and (shared := sorted(one.values.keys() & other.values.keys())):
                made.append(_pair(one, rival, [one.values[k] - other.values[k] for k in shared]))
    return made


def _pair(one: Compared, rival: str, differences: Sequence[float]) -> Pair:
    half, n = None, len(differences)
    if n > 1:
        # Accuracies lie on a grid of one image; equal ones may differ by what its rounding hides, step / sqrt(12).
        least = SCALES[one.unit] / (one.images or 1) / math.sqrt(12)
        half = float(stdtrit(n - 1, 0.975)) * max(statistics.stdev(differences), least) / math.sqrt(n)
    return Pair(one.cell, rival, n, statistics.fmean(differences), half)


def _key(cell: Cell) -> tuple[tuple[str, str, str], str, str, str]:
    """Return data set, network and request of a cell, what healing began from, its kind of data and its epochs."""
    place = (cell.dataset, cell.model, cell.forget)
    start, _, healed = cell.unlearner.partition("-")
    if not healed.startswith(HEAL):
        return place, start, "", ""
    data, _, epochs = healed.removeprefix(f"{HEAL}_").rpartition("_")
    return place, start, data, epochs
