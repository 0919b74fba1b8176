"""Rule so_far: tables and pages from the rows that exist now, and how many cells that is."""

import sys

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import formats, page, so_far, tables

    plan = Plan(run.config)
    for paper, about in plan.papers.items():
        folder = run.results / "so_far" / paper
        run.write_text(str(folder / "index.html"), page.render(plan, paper, run.results))
        for name in about["tables"]:
            text = formats.markdown(tables.of(plan, paper, name, run.results)[0])
            run.write_text(str(folder / f"{name}.md"), text)
    sys.stdout.write(so_far.told(plan, run.results) + "\n")
