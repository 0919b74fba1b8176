"""What a row of a table must say of itself: that it did not forget, or that its tuned value lies at an edge.

A method is measured against retraining. Where the mean gap to the retrained model, over the metrics by which values are
tuned, is nearly the original model's, the method did next to nothing, whatever its single numbers look like.
"""

from __future__ import annotations

import json
import statistics
from enum import StrEnum
from pathlib import Path

from palimpsest.pipeline import method, paths
from palimpsest.pipeline.cells import Plan, Run
from palimpsest.report.compare import SCALES, read_rows


class Mark(StrEnum):
    """A mark beside a row's name, and what it means."""

    sign: str
    meaning: str

    def __new__(cls, value: str, sign: str, meaning: str) -> Mark:
        made = str.__new__(cls, value)
        made._value_, made.sign, made.meaning = value, sign, meaning
        return made

    KEPT = (
        "did not forget",
        "†",
        "did not forget: its mean gap to retraining and its accuracy on the forget set are nearly the original model's",
    )
    EDGE = "tuned at the edge", "‡", "its tuned value lies at the edge of those tried: a better one may lie beyond"


def marks(plan: Plan, run: Run, results: Path) -> tuple[Mark, ...]:
    """Return the marks of a run, from what lies below `results`, which is results/<scale>."""
    tuned = results / paths.below("tune", "tuned", **plan.tuned_on(run).names)
    edge = tuned.is_file() and json.loads(tuned.read_text()).get("edge", False)
    return (Mark.KEPT,) * kept(plan, run, results) + (Mark.EDGE,) * edge


def kept(plan: Plan, run: Run, results: Path) -> bool:
    """Whether a run kept what it was to forget; False where nothing that the plan asks for would tell.

    Its gap to retraining is nearly the original model's, and so is its accuracy on the forget set: a model that forgot
    and broke may have as large a gap.
    """
    reference, original = plan.yardsticks(run)
    if run in (reference, original) or not {reference, original} <= set(plan.asked):
        return False
    own, retrained, start = (_means(one, results) for one in (run, reference, original))
    names = method.literal(method.PACKAGE / "tune.py", "METRICS")
    if any(name not in found for name in names for found in (own, retrained, start)):
        return False
    enough = plan.config["did_not_forget"]
    gaps = [statistics.fmean(abs(found[name] - retrained[name]) for name in names) for found in (own, start)]
    known = enough["nearer"]
    nearer = abs(own[known] - start[known]) < abs(own[known] - retrained[known])
    return gaps[1] >= enough["gap"] and gaps[0] >= enough["share"] * gaps[1] and nearer


def _means(run: Run, results: Path) -> dict[str, float]:
    """Return a run's metrics on clean images by name: means over repetitions, in points of 100."""
    found: dict[str, list[float]] = {}
    for row in read_rows(results / run.rows):
        if row["status"] == "ok" and row["attack"] == "none" and not row["defense"] and row["unit"] in SCALES:
            found.setdefault(row["metric"], []).append(100 * float(row["value"]) / SCALES[row["unit"]])
    return {name: statistics.fmean(values) for name, values in found.items()}
