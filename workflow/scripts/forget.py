"""Rule forget: draw one forget set."""

from safetensors import safe_open

from palimpsest.forget import choose
from palimpsest.pipeline.job import job

with job(snakemake) as run, safe_open(run.input.images, framework="numpy") as file:
    seed = run.seed(run.wildcards["seed"])
    indices = choose(file.get_tensor("train_labels"), seed, **run.params.rule)
    content = {"rule": run.params.rule, "seed": seed, "data": file.metadata()["digest"], "indices": indices.tolist()}
    run.write_json(run.output.forget, content)
