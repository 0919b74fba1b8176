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
from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.report.compare import SCALES, read_rows


class Mark(StrEnum):
    """A mark beside a row's name, and what it means."""

    sign: str
    meaning: str

    def __new__(cls, value: str, sign: str, meaning: str) -> Mark:
        made = str.__new__(cls, value)
        made._value_, made.sign, made.meaning = value, sign, meaning
        return made

    KEPT = "did not forget", "†", "did not forget: its mean gap to retraining is nearly that of the original model"
    EDGE = "tuned at the edge", "‡", "its tuned value lies at the edge of those tried: a better one may lie beyond"


def marks(plan: Plan, run: Run, results: Path) -> tuple[Mark, ...]:
    """Return the marks of a run, from what lies below `results`, which is results/<scale>."""
    tuned = results / paths.below("tune", "tuned", **plan.tuned_on(run).names)
    edge = tuned.is_file() and json.loads(tuned.read_text()).get("edge", False)
    return (Mark.KEPT,) * kept(plan, run, results) + (Mark.EDGE,) * edge


def kept(plan: Plan, run: Run, results: Path) -> bool:
    """Whether a run kept what it was to forget; False where the rows that would tell are missing."""
    reference = run.with_last(plan.config["reference"])
    original = Run(run.dataset, run.model, run.forget, ORIGINAL)
    if run in (reference, original):
        return False
    own, start = (gap(one, reference, results) for one in (run, original))
    return own is not None and start is not None and own >= plan.config["did_not_forget"] * start


def gap(run: Run, reference: Run, results: Path) -> float | None:
    """Return the mean gap of a run to the reference, in points of 100; None where a metric is missing in either."""
    of_run, of_reference = (_means(one, results) for one in (run, reference))
    names = method.literal(method.PACKAGE / "tune.py", "METRICS")
    if any(name not in found for name in names for found in (of_run, of_reference)):
        return None
    return statistics.fmean(abs(of_run[name] - of_reference[name]) for name in names)


def _means(run: Run, results: Path) -> dict[str, float]:
    """Return a run's metrics on clean images by name: means over repetitions, in points of 100."""
    found: dict[str, list[float]] = {}
    for row in read_rows(results / run.rows):
        if row["status"] == "ok" and row["attack"] == "none" and not row["defense"] and row["unit"] in SCALES:
            found.setdefault(row["metric"], []).append(100 * float(row["value"]) / SCALES[row["unit"]])
    return {name: statistics.fmean(values) for name, values in found.items()}
