"""What unlearning costs: the seconds and the peak memory of each unlearner, beside those of a reference.

They are read from the records of rule `unlearn`. The seconds are those of the method alone, without loading and saving.
The memory is the whole job's peak, libraries and data included, since a machine must have that much; on a card it is
what was allocated there. Costs stand on the page alone, because the tables must come out the same however long they
took.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from palimpsest.pipeline import paths
from palimpsest.pipeline.cells import ORIGINAL, Run


@dataclass(frozen=True)
class Cost:
    """The cost of one unlearner in one place: mean seconds and megabytes over n repetitions, each forgetting so many
    images.

    record: the first repetition's, below results/<scale>.
    """

    seconds: float
    memory: float
    n: int
    images: int
    device: str
    record: str


def costs(runs: Iterable[Run], held_out: int, results: Path) -> dict[Run, Cost]:
    """Return the costs of `runs` from the records below `results`, which is results/<scale>; runs without one are left
    out.

    held_out: the repetition that tuning used, which does not count.
    """
    found = {}
    for run in dict.fromkeys(run for run in runs if run.unlearner != ORIGINAL):
        files = sorted((results / paths.below("unlearn", "model", **run.names, block="x")).parent.glob("*.record.json"))
        files = [file for file in files if file.name != f"{held_out}.record.json"]
        records = {file: one for file in files if (one := json.loads(file.read_text())).get("method_seconds")}
        if not records:
            continue
        taken = [float(seconds) for one in records.values() for seconds in one["method_seconds"]]
        first, record = next(iter(records.items()))
        found[run] = Cost(
            seconds=statistics.fmean(taken),
            memory=statistics.fmean(float(one.get("gpu_peak_mb", one["peak_memory_mb"])) for one in records.values()),
            n=len(taken),
            images=int(record["forget"]),
            device=str(record.get("device", "")),
            record=str(first.relative_to(results)),
        )
    return found
