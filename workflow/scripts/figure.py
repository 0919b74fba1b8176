"""Rule figure: one figure as SVG and PDF, and its numbers as CSV."""

from pathlib import Path

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(snakemake) as run:
    import matplotlib

    matplotlib.use("Agg")
    from palimpsest.report import figures

    results = Path(run.output.csv).parents[2]
    figure, found = figures.of(Plan(snakemake.config), run.wildcards["paper"], run.wildcards["figure"], results)
    for name, content in (
        ("csv", figures.numbers(found, results).encode()),
        ("svg", figures.svg(figure).encode()),
        ("pdf", figures.pdf(figure)),
    ):
        with run.writing(run.output[name]) as path:
            path.write_bytes(content)
