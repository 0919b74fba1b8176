"""The page of a paper: claims, tables, figures, checks, controls, costs, tuning; every number links to its record.

Its look is defined in workflow/report/ (page.html.j2, style.css). The page fetches nothing and has no script. What a
paper adds in Python of its own lies in config/papers/<paper>/, in sections.py and checks.py:

sections(context) -> list of (title, HTML)      parts of the page, before the tables
checks(context) -> list of checks.Check         in addition to those that paper.yaml declares
"""

from __future__ import annotations

import base64
import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palimpsest.pipeline import papers, paths
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.provenance import read_records
from palimpsest.report import checks, claims, compare, formats, records, tables
from palimpsest.report.compare import Compared, Verdict


def render(contents: Mapping[str, Any]) -> str:
    """Return a page as HTML."""
    return formats.environment().get_template("page.html.j2").render(contents)


def summary(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the front page says of a page, as plain values."""
    found = contents["checks"]
    return {
        **{name: contents[name] for name in ("paper", "scale", "others", "repetitions", "banner", "counts", "lead")},
        **{name: contents["about"].get(name, "") for name in ("title", "cite", "link")},
        "claims": [
            {
                **{name: getattr(one, name) for name in ("says", "source", "ours", "stand_in")},
                "verdict": one.reproduced.verdict,
                "printed": one.printed.verdict if one.printed else "",
            }
            for one in contents["claims"]
        ],
        "checks": len(found),
        "violated": [check.says for check in found if check.violations],
    }


def contents(plan: Plan, paper: str, results: Path) -> dict[str, Any]:
    """Return what the page of `paper` shows, from what lies below `results`, which is results/<scale>."""
    about = plan.papers[paper]
    names = about.get("names", {})
    made, counted, figures = [], list[Compared](), []
    for table in about["tables"]:
        arranged, compared = tables.of(plan, paper, table, results)
        made.append(arranged)
        counted += compared
    found = list(counted)
    for name, figure in about.get("figures", {}).items():
        compared = compare.compare(plan.figures[paper, name], results)
        file = results / paths.below("figure", "svg", paper=paper, figure=name)
        drawing = base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""
        banner = tables.banner((one.cell for one in compared), names)
        figures.append({**figure, "name": name, "drawing": drawing, "banner": banner})
        found += compared
    runs = dict.fromkeys(run for one in found for run in one.cell.runs)
    lead = about.get("lead", {"cells": {}, "says": "comparable numbers agree"})
    kept = read_records(results)
    costs = records.costs(kept, runs, plan)
    context = Context(plan, paper, about, counted, results)
    return {
        "paper": paper,
        "about": about,
        "scale": plan.config["scale"],
        "repetitions": tables.usual_n(found),
        "banner": tables.banner((one.cell for one in found), names),
        "tables": made,
        "figures": figures,
        "claims": claims.evaluate(about, found),
        "sections": call(context, "sections"),
        "checks": [*checks.check(plan, paper, results), *call(context, "checks")],
        "widest": plan.config["widest_interval"],
        "counts": counts(counted),
        "lead": {"says": lead["says"], **counts([one for one in counted if compare.matches(one.cell, lead["cells"])])},
        "costs": costs,
        "places": list({(run.dataset, run.model, run.forget): run for run in costs}.values()),
        "at": lambda place, unlearner: replace(place, unlearner=unlearner),
        "searches": records.searches(plan, runs, names, results),
        "made_by": records.origin(kept, [f"results/{results.name}/{run.rows}" for run in runs]),
        "configured": (results / "config.yaml").is_file(),
        "others": list(plan.papers),
    }  # fmt: skip


def counts(found: Sequence[Compared]) -> dict[str, int]:
    """Return the numbers of the summary boxes: printed cells by verdict, runs, and runs that diverged."""
    published = Counter(one.verdict for one in found if one.cell.published is not None)
    counted = (*compare.JUDGED, Verdict.STAND_IN, Verdict.NOT_RUN)
    runs = {run for one in found if one.values or one.verdict is Verdict.DIVERGED for run in one.cell.runs}
    return {
        "printed": sum(published.values()),
        "agree": published[Verdict.AGREES],
        "compared": sum(published[verdict] for verdict in compare.JUDGED),
        "too_wide": published[Verdict.TOO_WIDE],
        "stand_in": published[Verdict.STAND_IN],
        "not_run": published[Verdict.NOT_RUN],
        "runs": len(runs),
        "diverged": len({run for one in found if one.verdict is Verdict.DIVERGED for run in one.cell.runs}),
        "other": sum(published.values()) - sum(published[verdict] for verdict in counted),
    }


@dataclass(frozen=True)
class Context:
    """What a section knows.

    found: the compared cells of the paper's tables. results: results/<scale>.
    """

    plan: Plan
    paper: str
    about: Mapping[str, Any]
    found: Sequence[Compared]
    results: Path

    def render(self, template: str, **values: Any) -> str:
        """Return a template of the paper's folder as HTML; it may import those of workflow/report/."""
        text = (papers.PAPERS / self.paper / template).read_text()
        return formats.environment().from_string(text).render(about=self.about, **values)


def call(context: Context, name: str) -> list[Any]:
    """Call the function `name` in the paper's file of that name and return its list; empty where there is no file."""
    file = papers.PAPERS / context.paper / f"{name}.py"
    return list(getattr(load(file), name)(context)) if file.is_file() else []


def load(file: Path) -> Any:
    """Import a Python file by its path, once."""
    name = f"{file.parent.name}_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader, file
        sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
