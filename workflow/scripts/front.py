"""Rule front: the page before those of the papers."""

import json
from pathlib import Path

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import front

    run.write_text(run.output.front, front.render([json.loads(Path(file).read_text()) for file in run.input.summaries]))
