"""The front page of a scale: the papers, what was reproduced, and every claim in one table.

It is made from the summaries that lie beside the pages. The same summaries fill the tables of claims in README.md:

    python -m palimpsest.report.front README.md results/demo results/laptop

rewrites what stands between `<!-- claims: PAPER -->` and `<!-- end -->`, with a column for each scale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.pipeline import paths
from palimpsest.report import formats

Summary = Mapping[str, Any]
MARKED = re.compile(r"(<!-- claims: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(summaries: Sequence[Summary]) -> str:
    """Return the front page as HTML."""
    return formats.environment().get_template("front.html.j2").render(papers=summaries)


def filled(text: str, results: Sequence[Path]) -> str:
    """Return a text with its marked tables of claims made anew from the summaries below `results`.

    A scale whose summary is missing, or lacks a claim, has "not run" in its column.
    """

    def table(match: re.Match[str]) -> str:
        found = {folder.name: _read(folder, match[2]) for folder in results}
        lines = [f"| claim | the paper's own numbers | {' | '.join(found)} |", "|---" * (2 + len(found)) + "|"]
        by_scale = [{(one["says"], one["source"]): one for one in told} for told in found.values()]
        for key, claim in {key: one for told in by_scale for key, one in told.items()}.items():
            verdicts = [told[key]["verdict"] if key in told else "not run" for told in by_scale]
            said = [f"**{one}**" if one == "does not hold" else one for one in (claim["printed"] or "ours", *verdicts)]
            lines.append(f"| {key[0]} ({key[1]}) | {' | '.join(said)} |")
        return f"{match[1]}{chr(10).join(lines)}\n{match[3]}"

    return MARKED.sub(table, text)


def _read(folder: Path, paper: str) -> list[Summary]:
    file = folder / paths.below("page", "summary", paper=paper)
    return json.loads(file.read_text())["claims"] if file.is_file() else []


if __name__ == "__main__":
    file, *folders = map(Path, sys.argv[1:])
    file.write_text(filled(file.read_text(), folders))
