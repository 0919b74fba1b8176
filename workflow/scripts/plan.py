"""Rule plan: what is left to run and what it costs, printed and kept."""

import sys

from palimpsest.pipeline import estimate, plan, provenance
from palimpsest.pipeline.job import job
from palimpsest.report import spending

with job(globals().get("snakemake")) as run:
    jobs = plan.graph(run.config, run.config["plan"]["target"], run.asks.max_checksum_file_size)
    costs = estimate.Costs(run.config, provenance.read_records(run.results.parent))
    text = spending.markdown(jobs, costs)
    run.write_text(f"{run.results}/plan.md", text)
    run.write_text(f"{run.results}/plan.csv", spending.tidy(jobs, costs))
    sys.stdout.write(text)
