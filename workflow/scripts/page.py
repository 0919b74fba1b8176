"""Rule page: the page of a paper, and its summary for the front page."""

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import page

    found = page.contents(Plan(run.config), run.names["paper"], run.results)
    run.write_text(run.output.page, page.render(found))
    run.write_json(run.output.summary, page.summary(found))
