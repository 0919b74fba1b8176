"""Rule so_far: tables and pages from the rows that exist now, and how many cells that is."""

import sys
from pathlib import Path

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest.report import formats, page, so_far, tables

    plan, results = Plan(snakemake.config), Path(run.params.results)
    for paper, about in plan.papers.items():
        folder = results / "so_far" / paper
        with run.writing(str(folder / "index.html")) as path:
            path.write_text(page.render(plan, paper, results))
        for name in about["tables"]:
            with run.writing(str(folder / f"{name}.md")) as path:
                path.write_text(formats.markdown(tables.of(plan, paper, name, results)[0]))
    sys.stdout.write(so_far.told(plan, results) + "\n")
