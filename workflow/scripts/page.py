"""Rule page: stand-in until the report exists."""

from palimpsest.pipeline.job import job

with job(snakemake) as run, run.writing(run.output.page) as p:
    p.write_text("x")
