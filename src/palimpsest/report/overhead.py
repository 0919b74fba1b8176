"""Where the numbers of a page come from: commits, devices, and what the workflow cost over its jobs' work.

Read from every record below results/<scale> that there is when a page is made. The wall time runs from the first job's
start to the last one's end, pauses between two runs left out; start-up is what a job's process needs before its first
line of ours (Python, Snakemake's preamble; imports of torch count as work where a job starts cold). All this stands on
the page and in no table, since tables must come out the same however long they took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from palimpsest.pipeline.provenance import read_records

PAUSE_SECONDS = 60  # a longer time without any job is not the workflow's


@dataclass(frozen=True)
class Rule:
    """The jobs of one rule: how many, and their seconds of work and of start-up."""

    name: str
    jobs: int
    work: float
    startup: float


@dataclass(frozen=True)
class Overhead:
    """All jobs of a scale that kept a record.

    wall: seconds. lanes: the most jobs at a time. commits, devices: jobs by either, of those behind the page. Times are
    of the jobs that say when they started; there are none in records of before that was kept, and `wall` is then 0.
    """

    rules: tuple[Rule, ...]
    wall: float
    lanes: int
    commits: Mapping[str, int]
    devices: Mapping[str, int]

    @property
    def jobs(self) -> int:
        """Jobs with a time."""
        return sum(rule.jobs for rule in self.rules)

    @property
    def work(self) -> float:
        """Seconds of all jobs' own work."""
        return sum(rule.work for rule in self.rules)

    @property
    def startup(self) -> float:
        """Seconds of all jobs' start-up."""
        return sum(rule.startup for rule in self.rules)

    @property
    def over_work(self) -> float:
        """What was paid for beyond the jobs' work, as a share of that work: start-up, planning, and idle lanes."""
        return self.wall * self.lanes / self.work - 1 if self.work else 0.0

    @property
    def dirty(self) -> int:
        """Jobs that ran on code which no commit holds."""
        return sum(count for commit, count in self.commits.items() if commit.endswith("-dirty"))


def overhead(results: Path, rows: Iterable[str]) -> Overhead:
    """What the records below `results`, which is results/<scale>, say of their run.

    rows: what a page is made from, as paths below `results`; its commits and devices are those of the jobs behind them.
    """
    records = read_records(results)
    behind = _behind(records, [f"{results.name}/{name}" for name in rows])
    timed = [record for record in records if "startup_seconds" in record]
    spans = sorted(map(_span, timed))
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for record in timed:
        rules.setdefault(record["rule"], []).append(record)
    return Overhead(
        rules=tuple(
            Rule(name, len(of), sum(r["seconds"] for r in of), sum(r["startup_seconds"] for r in of))
            for name, of in sorted(rules.items())
        ),
        wall=_wall(spans),
        lanes=_lanes(spans),
        commits=Counter(str(record.get("commit", "unknown")) for record in behind),
        devices=Counter(str(record["device"]) for record in behind),
    )


def _behind(records: Iterable[Mapping[str, Any]], results: Iterable[str]) -> list[Mapping[str, Any]]:
    """The records of the jobs that made `results` (scale/…) and of those before them."""
    by_output = {output.partition("/")[2]: record for record in records for output in record["outputs"]}
    waiting, seen = list(results), set()
    found: dict[int, Mapping[str, Any]] = {}
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_output:
            continue
        seen.add(name)
        record = by_output[name]
        if id(record) not in found:
            found[id(record)] = record
            waiting += [before.partition("/")[2] for before in record.get("inputs", {})]
    return list(found.values())


def _span(record: Mapping[str, Any]) -> tuple[float, float]:
    end = datetime.fromisoformat(record["finished"]).timestamp()
    return end - record["seconds"] - record["startup_seconds"], end


def _wall(spans: Sequence[tuple[float, float]]) -> float:
    """From start to end, without the pauses in which nothing ran."""
    if not spans:
        return 0.0
    total, latest = 0.0, spans[0][1]
    begun = spans[0][0]
    for start, end in spans:
        if start > latest + PAUSE_SECONDS:
            total += latest - begun
            begun = start
        latest = max(latest, end)
    return total + latest - begun


def _lanes(spans: Iterable[tuple[float, float]]) -> int:
    """The most spans over one moment."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most
