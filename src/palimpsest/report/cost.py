"""What unlearning costs: seconds and peak memory of each unlearner, and both as a share of a reference's.

Read from the records of rule `unlearn`. Seconds are those of the method alone, without loading and saving; memory is
the whole job's peak, libraries and data included, since that is what a machine must have (on a card: what was allocated
there). They stand on the page alone: the tables must come out the same however long they took.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline.cells import ORIGINAL, Run


@dataclass(frozen=True)
class Place:
    """Where it was measured: data set, network and forget set as the page names them, and how large they are."""

    dataset: str
    model: str
    forget: str
    images: int


@dataclass(frozen=True)
class Cost:
    """One unlearner in one place: means over n repetitions, and their ratio to the reference's; the first record."""

    seconds: float
    of_reference: float | None
    memory: float
    memory_of_reference: float | None
    n: int
    record: str


@dataclass(frozen=True)
class Costs:
    """The table: a line for each unlearner with a cost, or None where it was not run, for each place."""

    places: tuple[Place, ...]
    lines: tuple[tuple[str, tuple[Cost | None, ...]], ...]
    devices: tuple[str, ...]


def costs(runs: Iterable[Run], reference: str, held_out: int, names: Mapping[str, str], results: Path) -> Costs:
    """The costs of `runs` from the records below `results`, which is results/<scale>; those without one are left out.

    reference: the unlearner whose costs the others' are a share of. held_out: the repetition that tuning used, which
    does not count.
    """
    records = {
        run: found
        for run in dict.fromkeys(runs)
        if run.unlearner != ORIGINAL and (found := _records(run, held_out, results))
    }
    plain = {run: _cost(found, None) for run, found in records.items()}
    places = list(dict.fromkeys((run.dataset, run.model, run.forget) for run in records))
    lines = []
    for unlearner in dict.fromkeys(run.unlearner for run in records):
        cells = []
        for place in places:
            run = Run(*place, unlearner)
            cells.append(_cost(records[run], plain.get(Run(*place, reference))) if run in records else None)
        lines.append((names.get(unlearner, unlearner), tuple(cells)))
    heads = []
    for place in places:
        here = [run for run in records if (run.dataset, run.model, run.forget) == place]
        images = int(records[here[0]][0][1]["forget"])
        dataset, model, forget = (names.get(name, name) for name in place)
        heads.append(Place(dataset, model, forget, images))
    devices = sorted({str(record.get("device", "")) for found in records.values() for _, record in found})
    return Costs(tuple(heads), tuple(lines), tuple(devices))


def _cost(records: Sequence[tuple[str, Mapping[str, Any]]], reference: Cost | None) -> Cost:
    taken = [float(seconds) for _, record in records for seconds in record["method_seconds"]]
    seconds = statistics.fmean(taken)
    memory = statistics.fmean(float(record.get("gpu_peak_mb", record["peak_memory_mb"])) for _, record in records)
    return Cost(
        seconds=seconds,
        of_reference=seconds / reference.seconds if reference else None,
        memory=memory,
        memory_of_reference=memory / reference.memory if reference else None,
        n=len(taken),
        record=records[0][0],
    )


def _records(run: Run, held_out: int, results: Path) -> list[tuple[str, dict[str, Any]]]:
    folder = results / "unlearned" / run.dataset / run.model / run.forget / run.unlearner
    files = sorted(folder.glob("seed*.record.json"))
    found = [
        (str(file.relative_to(results)), json.loads(file.read_text()))
        for file in files
        if file.name != f"seed{held_out}.record.json"
    ]
    return [(path, record) for path, record in found if record.get("method_seconds")]
