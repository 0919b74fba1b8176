"""Rule table: one table in its four formats."""

from pathlib import Path

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest.report import formats, tables

    results = Path(run.output.csv).parents[2]
    table, found = tables.of(Plan(snakemake.config), run.wildcards["paper"], run.wildcards["table"], results)
    texts = {
        "csv": tables.tidy(found),
        "markdown": formats.markdown(table),
        "latex": formats.latex(table),
        "html": formats.html(table),
    }
    for name, text in texts.items():
        with run.writing(run.output[name]) as path:
            path.write_text(text)
