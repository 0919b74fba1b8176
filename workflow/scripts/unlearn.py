"""Rule unlearn: one unlearner on one base model and forget set."""

import json
from importlib import import_module
from pathlib import Path

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords

with job(snakemake) as run:
    from palimpsest import data, models, train, unlearners

    images = data.read(run.input.images).to(run.device)
    forget, retain, indices = unlearners.split(images, run.input.forget)
    unlearn = import_module(f"palimpsest.unlearners.{run.params.method}").unlearn
    run.facts |= {"forget": len(forget.labels), "retain": len(retain.labels)}
    fill = {
        "seed": lambda base: run.seed(run.wildcards["seed"]),
        "recipe": lambda base: train.recipe_from(run.params.recipe),
        "checkpoint": lambda base: run.checkpoint(run.output.model),
        "indices": lambda base: indices,
        # Training begins with weights that depend on its seed alone.
        "initial": lambda base: models.fresh(base, int(models.metadata(run.input.base)["seed"])),
        "kept": lambda base: run.read_tensors(run.input.kept),
    }
    tuned = json.loads(Path(run.input.tuned).read_text())["chosen"] if run.input.tuned else {}
    run.facts["tuned"] = tuned
    wanted = fill.keys() & keywords("unlearners", run.params.method)

    def unlearned():
        base = models.load(run.input.base).to(run.device)
        filled = {name: fill[name](base) for name in wanted}
        with run.timed():
            return unlearn(base, forget, retain, **filled, **run.params.keywords | tuned)

    header = {"data": data.digest(run.input.images), "seed": str(run.seed(run.wildcards["seed"]))}
    run.keep_model(run.output.model, unlearned, **header)
