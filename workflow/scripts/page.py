"""Rule page: the page of a paper."""

from pathlib import Path

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest.report import page

    text = page.render(Plan(snakemake.config), run.wildcards["paper"], Path(run.output.page).parents[2])
    with run.writing(run.output.page) as path:
        path.write_text(text)
