"""What the records tell of a page's jobs: what unlearning cost, what tuning chose, which commits and devices it was.

This stands on the page alone, since tables must come out the same wherever they were made and however long it took.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palimpsest.pipeline import paths
from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.pipeline.configuration import grid_of
from palimpsest.pipeline.values import named

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """The cost of one unlearner in one place: means over n repetitions, each of which forgets so many images.

    seconds: of the method alone, without loading and saving. memory: the whole job's peak in megabytes, libraries and
    data included, since a machine must have that much; on a card what was allocated there. record: the first
    repetition's, below results/<scale>. search: the seconds of tuning it, 0 where nothing was tuned.
    """

    seconds: float
    memory: float
    n: int
    images: int
    device: str
    record: str
    search: float = 0.0


def costs(records: Iterable[Record], runs: Iterable[Run], plan: Plan) -> dict[Run, Cost]:
    """Return the costs of `runs` that have records; the held-out models of tuning do not count, its searches do."""
    of_run: dict[Run, list[Record]] = {}
    searched: dict[Run, float] = {}
    for record in records:
        if record["rule"] == "tune":
            searched[Run(**record["cell"])] = float(record["seconds"])
        if record["rule"] == "unlearn" and record.get("method_seconds"):
            block, names = record["cell"]["block"], {k: v for k, v in record["cell"].items() if k != "block"}
            if block != plan.held_out:
                of_run.setdefault(Run(**names), []).append(record)
    return {
        run: replace(_cost(of_run[run]), search=searched.get(plan.tuned_on(run), 0.0)) for run in runs if run in of_run
    }


def _cost(records: Sequence[Record]) -> Cost:
    first = records[0]
    taken = [float(seconds) for one in records for seconds in one["method_seconds"] if seconds is not None]
    return Cost(
        seconds=statistics.fmean(taken),
        memory=statistics.fmean(float(one.get("gpu_peak_mb", one["peak_memory_mb"])) for one in records),
        n=len(taken),
        images=int(first["forget"]),
        device=str(first["device"]),
        record=paths.record_of(paths.below("unlearn", "model", **first["cell"])),
    )


@dataclass(frozen=True)
class Origin:
    """How many jobs ran on each commit and on each device."""

    commits: Mapping[str, int]
    devices: Mapping[str, int]

    @property
    def dirty(self) -> int:
        """How many jobs ran code that no commit holds."""
        return sum(count for commit, count in self.commits.items() if commit.endswith("-dirty"))


def origin(records: Iterable[Record], files: Iterable[str]) -> Origin:
    """Return the origin of `files`, named as the records name them: of the jobs that made them and those before."""
    made = {output: record for record in records for output in record["outputs"]}
    waiting, behind = list(files), dict[int, Record]()
    while waiting:
        record = made.get(waiting.pop())
        if record and id(record) not in behind:
            behind[id(record)] = record
            waiting += record.get("inputs", {})
    commits = Counter(str(record.get("commit", "unknown")) for record in behind.values())
    return Origin(commits, devices=Counter(str(record["device"]) for record in behind.values()))


@dataclass(frozen=True)
class Search:
    """What rule `tune` chose for one unlearner in one place, and from which values.

    trials: values as text, the gap to retraining in points (None where it diverged), and whether they were chosen.
    edge: whether the choice is the smallest or largest value that was tried, so that a better one may lie beyond.
    """

    unlearner: str
    where: str
    trials: tuple[tuple[str, float | None, bool], ...]
    edge: bool
    record: str


def searches(plan: Plan, runs: Iterable[Run], names: Mapping[str, str], results: Path) -> list[Search]:
    """Return every search of rule `tune` behind the runs, in their order; those not run yet are left out."""
    found = []
    for run in runs:
        on = plan.tuned_on(run)
        path = paths.below("tune", "tuned", **on.names)
        tuned = run.unlearner != ORIGINAL and grid_of(plan.config, run.steps[-1][1])
        if not tuned or not (results / path).is_file():
            continue
        content = json.loads((results / path).read_text())
        ((keyword, chosen),) = content["chosen"].items()
        trials = tuple((f"{keyword} {one['value']:g}", one["gap"], one["value"] == chosen) for one in content["trials"])
        where = f"{named(on.dataset, names)}, {named(on.forget, names)}"
        unlearner = named(run.unlearner, names)
        found.append(Search(unlearner, where, trials, content["edge"], paths.record_of(path)))
    return found
