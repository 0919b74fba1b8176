"""The page of a paper: claims, tables with a link from each number to its record, figures, checks, controls, costs,
tuning.

Its look is defined in workflow/report/ (page.html.j2, table.html.j2, style.css). The page fetches nothing and has no
script.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from palimpsest.pipeline import paths
from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.pipeline.configuration import grid_of
from palimpsest.report import checks, claims, compare, cost, formats, origin, own, tables
from palimpsest.report.compare import Compared, Verdict


@dataclass(frozen=True)
class Search:
    """What rule `tune` chose for one unlearner in one place, and from which values.

    trials: values as text, the gap to retraining in points (None where it diverged), and whether they were chosen.
    edge: whether the choice is the smallest or largest value of its grid, so that a better one may lie beyond.
    """

    unlearner: str
    where: str
    trials: tuple[tuple[str, float | None, bool], ...]
    edge: bool
    record: str


def render(plan: Plan, paper: str, results: Path) -> str:
    """Return the page of `paper` from what lies below `results`, which is results/<scale>."""
    about = plan.papers[paper]
    made, found = [], []
    for table in about["tables"]:
        arranged, compared = tables.of(plan, paper, table, results)
        made.append(arranged)
        found += compared
    counted, figures = list(found), []
    for name, figure in about.get("figures", {}).items():
        compared = compare.compare(plan.figures[paper, name], results)
        file = results / paths.below("figure", "svg", paper=paper, figure=name)
        drawing = base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""
        banner = tables.banner((one.cell for one in compared), about.get("names", {}))
        figures.append({**figure, "name": name, "drawing": drawing, "banner": banner})
        found += compared
    names = about.get("names", {})
    runs = dict.fromkeys(run for one in found for run in one.cell.runs)
    costs = cost.costs(runs, plan.config["tuning_seed"], results)
    context = own.Context(plan, paper, about, counted, results)
    return formats.environment().get_template("page.html.j2").render(
        paper=paper,
        about=about,
        scale=plan.config["scale"],
        repetitions=Counter(one.n for one in found if one.n).most_common(1)[0][0] if any(one.n for one in found) else 0,
        banner=tables.banner((one.cell for one in found), names),
        tables=made,
        figures=figures,
        claims=claims.evaluate(about, found),
        sections=own.call(context, "sections"),
        checks=[*checks.check(plan, paper, results), *own.call(context, "checks")],
        counts=counts(counted),
        costs=costs,
        places=list({(run.dataset, run.model, run.forget): run for run in costs}.values()),
        at=lambda place, unlearner: replace(place, unlearner=unlearner),
        searches=searches(plan, runs, names, results),
        made_by=origin.origin(results, [run.rows for run in runs]),
        configured=(results / "config.yaml").is_file(),
        others=[
            name
            for name in plan.papers
            if name == paper or (results / paths.below("page", "page", paper=name)).is_file()
        ],
    )  # fmt: skip


def counts(found: Sequence[Compared]) -> dict[str, int]:
    """Return the numbers of the summary boxes: printed cells by verdict, runs, and runs that diverged."""
    published = Counter(one.verdict for one in found if one.cell.published is not None)
    counted = (Verdict.AGREES, Verdict.DIFFERS, Verdict.STAND_IN, Verdict.NOT_RUN)
    runs = {run for one in found if one.values or one.verdict is Verdict.DIVERGED for run in one.cell.runs}
    return {
        "printed": sum(published.values()),
        "agree": published[Verdict.AGREES],
        "compared": published[Verdict.AGREES] + published[Verdict.DIFFERS],
        "stand_in": published[Verdict.STAND_IN],
        "not_run": published[Verdict.NOT_RUN],
        "runs": len(runs),
        "diverged": len({run for one in found if one.verdict is Verdict.DIVERGED for run in one.cell.runs}),
        "other": sum(published.values()) - sum(published[verdict] for verdict in counted),
    }


def searches(plan: Plan, runs: Iterable[Run], names: Mapping[str, str], results: Path) -> list[Search]:
    """Return every search of rule `tune` behind the runs, in their order; those not run yet are left out."""
    found = []
    for run in runs:
        if run.unlearner == ORIGINAL or not grid_of(plan.config, run.steps[-1][1]):
            continue
        file = results / paths.below("tune", "tuned", **run.names)
        if not file.is_file():
            continue
        content = json.loads(file.read_text())
        tried = [(one["values"], one["gap"]) for one in content["trials"]]
        trials = tuple(
            (", ".join(f"{key} {value:g}" for key, value in values.items()), gap, values == content["chosen"])
            for values, gap in tried
        )
        grid = {key: [values[key] for values, _ in tried] for key in content["chosen"]}
        edge = any(content["chosen"][key] in (min(values), max(values)) for key, values in grid.items())
        where = f"{names.get(run.dataset, run.dataset)}, {names.get(run.forget, run.forget)}"
        record = str(file.with_suffix(".record.json").relative_to(results))
        found.append(Search(names.get(run.unlearner, run.unlearner), where, trials, edge, record))
    return found
