"""Rule table: one table in its four formats."""

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import formats, tables

    table, found = tables.of(Plan(run.config), run.names["paper"], run.names["table"], run.results)
    run.write_text(run.output.csv, tables.tidy(found))
    run.write_text(run.output.md, formats.markdown(table))
    run.write_text(run.output.tex, formats.latex(table))
    run.write_text(run.output.html, formats.html(table))
