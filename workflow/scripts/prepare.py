"""Rule prepare: train a defense on the retained images."""

from importlib import import_module

from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest import data, unlearners

    prepare = import_module(f"palimpsest.defenses.{run.params.method}").prepare
    images = data.read(run.input.images).to(run.device)
    _, retain, _ = unlearners.split(images, run.input.forget)
    with run.timed():
        kept = prepare(retain, seed=run.seed(run.wildcards["seed"]), **run.params.keywords)
    run.write_tensors(run.output.prepared, kept)
