"""The page of a paper: its claims, its tables with each number a link to its record, checks, controls and run times.

The look is in workflow/report/ (page.html.j2, table.html.j2, style.css). Nothing is fetched and there is no script. Run
times come from the records and stand here alone: the tables must come out the same however long they took.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.report import checks, claims, compare, formats, tables
from palimpsest.report.compare import Compared


@dataclass(frozen=True)
class Times:
    """Seconds of one unlearner: for each column mean seconds and their ratio to retraining's, None where not run."""

    label: str
    cells: tuple[tuple[float, float | None, str] | None, ...]


def render(plan: Plan, paper: str, results: Path) -> str:
    """The page of `paper` from what lies below `results`, which is results/<scale>."""
    about = plan.papers[paper]
    made, found = [], []
    for table in about["tables"]:
        arranged, compared = tables.of(plan, paper, table, results)
        made.append(arranged)
        found += compared
    columns, times, devices = run_times(found, about.get("names", {}), results)
    names = about.get("names", {})
    return formats.environment().get_template("page.html.j2").render(
        paper=paper,
        about=about,
        scale=plan.config["scale"],
        repetitions=plan.config["repetitions"],
        banner=tables.banner((one.cell for one in found), names),
        tables=made,
        claims=claims.evaluate(about, found),
        checks=checks.check(plan, paper, results),
        counts=counts(found),
        columns=columns,
        times=times,
        devices=devices,
        others=[name for name in plan.papers if name == paper or (results / "papers" / name / "index.html").is_file()],
    )  # fmt: skip


def counts(found: Sequence[Compared]) -> dict[str, int]:
    """The numbers of the summary boxes: cells that the paper prints by verdict, runs, and runs that diverged."""
    published = Counter(one.verdict for one in found if one.cell.published is not None)
    told = (compare.AGREES, compare.DIFFERS, compare.STAND_IN, compare.NOT_RUN)
    runs = {one.cell.run for one in found if one.values or one.verdict == compare.DIVERGED}
    return {
        "printed": sum(published.values()),
        "agree": published[compare.AGREES],
        "compared": published[compare.AGREES] + published[compare.DIFFERS],
        "stand_in": published[compare.STAND_IN],
        "not_run": published[compare.NOT_RUN],
        "runs": len(runs),
        "diverged": len({one.cell.run for one in found if one.verdict == compare.DIVERGED}),
        "other": sum(published.values()) - sum(published[verdict] for verdict in told),
    }


def run_times(
    found: Sequence[Compared], names: Mapping[str, str], results: Path
) -> tuple[list[tuple[str, str]], list[Times], list[str]]:
    """Seconds of unlearning by unlearner (lines) and data set with forget set (columns); empty without records."""
    runs = dict.fromkeys(one.cell.run for one in found if one.cell.run and one.cell.run.unlearner != ORIGINAL)
    seconds: dict[Run, tuple[float, str]] = {}
    devices: dict[str, None] = {}
    for run in runs:
        records = _records(run, results)
        spent = [float(record["method_seconds"][0]) for _, record in records if record.get("method_seconds")]
        if spent:
            seconds[run] = (statistics.fmean(spent), records[0][0])
            devices |= dict.fromkeys(str(record.get("device", "")) for _, record in records)
    places = list(dict.fromkeys((run.dataset, run.model, run.forget) for run in seconds))
    retrain = {place: seconds.get(Run(*place, checks.RETRAIN)) for place in places}
    lines = []
    for unlearner in dict.fromkeys(run.unlearner for run in seconds):
        cells: list[tuple[float, float | None, str] | None] = []
        for place in places:
            spent_here = seconds.get(Run(*place, unlearner))
            base = retrain[place]
            cells.append(spent_here and (spent_here[0], spent_here[0] / base[0] if base else None, spent_here[1]))
        lines.append(Times(names.get(unlearner, unlearner), tuple(cells)))
    heads = [(names.get(place[0], place[0]), names.get(place[2], place[2])) for place in places]
    return heads, lines, sorted(devices)


def _records(run: Run, results: Path) -> list[tuple[str, dict[str, Any]]]:
    folder = results / "unlearned" / run.dataset / run.model / run.forget / run.unlearner
    return [
        (str(file.relative_to(results)), json.loads(file.read_text()))
        for file in sorted(folder.glob("seed*.record.json"))
    ]
