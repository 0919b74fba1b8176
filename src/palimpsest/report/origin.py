"""Where the numbers of a page come from: the commits and devices of every job behind it, read from the records.

This stands on the page and in no table, since tables must come out the same wherever they were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline.provenance import read_records


@dataclass(frozen=True)
class Origin:
    """How many jobs ran on each commit and on each device."""

    commits: Mapping[str, int]
    devices: Mapping[str, int]

    @property
    def dirty(self) -> int:
        """How many jobs ran code that no commit holds."""
        return sum(count for commit, count in self.commits.items() if commit.endswith("-dirty"))


def origin(results: Path, rows: Iterable[str]) -> Origin:
    """Return the origin of `rows`, paths below `results` (which is results/<scale>): of their jobs and those before
    them.
    """
    by_output = {output.partition("/")[2]: one for one in read_records(results) for output in one["outputs"]}
    waiting, seen = [f"{results.name}/{name}" for name in rows], set()
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
    return Origin(
        commits=Counter(str(record.get("commit", "unknown")) for record in found.values()),
        devices=Counter(str(record["device"]) for record in found.values()),
    )
