"""Rule page: the page of a paper."""

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import page

    run.write_text(run.output.page, page.render(Plan(run.config), run.names["paper"], run.results))
