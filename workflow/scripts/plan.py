"""Rule plan: what is left to run and what it costs, printed and kept."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from palimpsest.pipeline import estimate, plan, provenance
from palimpsest.pipeline.job import job

with job(snakemake) as run, ProcessPoolExecutor(1, get_context("fork")) as beside:
    config = snakemake.config
    sizes = beside.submit(estimate.network_sizes, config)  # importing torch takes as long as Snakemake's planning
    jobs = plan.graph(config, config["plan"]["target"], run.params.max_checksum_file_size)

    import matplotlib

    matplotlib.use("Agg")
    from palimpsest.report import figures, spending

    records = provenance.read_records(Path(run.params.results).parent)
    costs = estimate.Costs(config, records, sizes.result())
    found = spending.summary(jobs, costs)
    texts = {
        "md": spending.markdown(found),
        "json": json.dumps(found, indent=1) + "\n",
        "csv": spending.tidy(jobs, costs),
        "svg": figures.svg(spending.draw(found)),
    }
    for name, text in texts.items():
        with run.writing(f"{run.params.results}/plan.{name}") as path:
            path.write_text(text)
    sys.stdout.write(texts["md"])
