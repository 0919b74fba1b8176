"""How much of each table and figure exists now, while a run goes on or after one that did not end."""

from __future__ import annotations

from pathlib import Path

from palimpsest.pipeline.cells import Plan
from palimpsest.report import compare


def told(plan: Plan, results: Path) -> str:
    """Return a line for each table and figure, "37 of 40 cells", and where the pages are; `results` is results/<scale>.

    A cell counts where all of its rows are there, those of diverged runs included. Cells that this scale cannot have
    (no data, no method yet) are not counted.
    """
    lines = []
    for paper, about in plan.papers.items():
        lines.append(f"{paper}: {about['title']}")
        counted = [0, 0]
        for name in (*about.get("tables", {}), *about.get("figures", {})):
            found = [one for one in compare.compare(plan.items[paper, name], results) if one.cell.runs]
            there = sum(bool(one.values) or one.verdict is compare.Verdict.DIVERGED for one in found)
            counted = [counted[0] + there, counted[1] + len(found)]
            lines.append(f"  {name:<22} {there:>4} of {len(found):>4} cells")
        lines.append(f"  {'all':<22} {counted[0]:>4} of {counted[1]:>4} cells; {results}/so_far/{paper}/index.html")
    return "\n".join(lines)
