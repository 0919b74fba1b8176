"""A section of the page: the attempts behind each share, by the image that they were aimed at.

A repetition is an attempt, and the images are tried in turn, so the attempts of one image are those whose number leaves
the same rest. Attempts on one image share the model and the image, and differ in the samples that are asked for alone.
Where all of an image's attempts end alike, the number of images says more about the spread than that of attempts, and
the standard error of independent attempts, which the paper prints, is too small. Wilson's interval is of independent
attempts, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from palimpsest.pipeline.cells import SAME, Cell
from palimpsest.pipeline.configuration import keywords_of
from palimpsest.report.compare import Compared
from palimpsest.report.page import Context

SUCCESS, TARGETED = "attempt_success", "attempt_targeted"


@dataclass(frozen=True)
class Attempts:
    """The attempts of one run: how many there are and how many succeeded, with the ends of Wilson's 95% interval in
    percent; how many were targeted; and of each image how many succeeded and how many there are.
    """

    cell: Cell
    n: int
    successes: int
    low: float
    high: float
    targeted: int | None
    images: tuple[tuple[int, int], ...]


def sections(context: Context) -> list[tuple[str, str]]:
    """Return the section, if there are numbers."""
    config = context.plan.config

    def targets(cell: Cell) -> int:
        asked = [name for name, _ in cell.runs[0].steps if name != SAME]
        return int(keywords_of(config, "requests", asked[-1])["targets"])

    found = attempts(context.found, targets)
    return [("Attempts by target", context.render("attempts.html.j2", runs=found))] if found else []


def attempts(found: Sequence[Compared], targets: Callable[[Cell], int]) -> list[Attempts]:
    """Return the attempts of every measured run of the tables. targets: of a cell, how many images are tried."""
    aimed = {_key(one.cell): one for one in found if one.cell.metric == TARGETED and one.values}
    made: dict[tuple[str, ...], Attempts] = {}
    for one in found:
        if one.cell.metric != SUCCESS or one.cell.derive or not one.values:
            continue
        hits = {number: value > 50 for number, value in one.values.items()}  # 100 or 0 each
        count = targets(one.cell)
        images = [[hit for number, hit in hits.items() if number % count == rest] for rest in range(count)]
        interval = binomtest(sum(hits.values()), len(hits)).proportion_ci(0.95, method="wilson")
        beside = aimed.get(_key(one.cell))
        made[_key(one.cell)] = Attempts(
            one.cell,
            len(hits),
            sum(hits.values()),
            100 * interval.low,
            100 * interval.high,
            None if beside is None else sum(value > 50 for value in beside.values.values()),
            tuple((sum(image), len(image)) for image in images),
        )
    return [*made.values()]


def _key(cell: Cell) -> tuple[str, str, str, str]:
    return cell.dataset, cell.model, cell.forget, cell.unlearner
