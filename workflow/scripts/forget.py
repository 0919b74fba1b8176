"""Rule forget: draw the forget sets of one request, all repetitions of a block."""

from safetensors import safe_open

from palimpsest.forget import choose
from palimpsest.pipeline.job import job
from palimpsest.seeds import numbers

with job(snakemake) as run, safe_open(run.input.images, framework="numpy") as file:
    labels, about = file.get_tensor("train_labels"), {"rule": run.params.rule, "data": file.metadata()["digest"]}
    drawn = {}
    for number in numbers(run.wildcards["seed"]):
        seed = run.seed(number)
        indices = choose(labels, seed, repetition=number, **run.params.rule)
        drawn[number] = {**about, "seed": seed, "indices": indices.tolist()}
    run.write_json(run.output.forget, {"several": drawn} if len(drawn) > 1 else drawn[number])
