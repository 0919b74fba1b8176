"""Rule figure: one figure as SVG and PDF, and its numbers as CSV."""

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    import matplotlib

    matplotlib.use("Agg")
    from palimpsest.report import figures

    figure, found = figures.of(Plan(run.config), run.names["paper"], run.names["figure"], run.results)
    run.write_text(run.output.csv, figures.numbers(found, run.results))
    run.write_text(run.output.svg, figures.saved(figure, "svg"))
    run.write_text(run.output.pdf, figures.saved(figure, "pdf"))
