"""Rule unlearn: one unlearner on base models and forget sets, all repetitions of a block."""

import json
from importlib import import_module
from pathlib import Path

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers

with job(snakemake) as run:
    from palimpsest import data, models, train, unlearners

    images = data.read(run.input.images).to(run.device)
    digest = data.digest(run.input.images)
    unlearn = import_module(f"palimpsest.unlearners.{run.params.method}").unlearn
    wanted = keywords("unlearners", run.params.method)
    tuned = json.loads(Path(run.input.tuned).read_text())["chosen"] if run.input.tuned else {}
    run.facts["tuned"] = tuned

    def unlearned(number):
        forget, retain, indices = unlearners.split(images, run.input.forget, number)
        run.facts |= {"forget": len(forget.labels), "retain": len(retain.labels)}
        base = models.load(run.input.base, number).to(run.device)
        fill = {
            "seed": lambda: run.seed(number),
            "recipe": lambda: train.recipe_from(run.params.recipe),
            "checkpoint": lambda: run.checkpoint(run.output.model, number),
            "indices": lambda: indices,
            # Training begins with weights that depend on its seed alone.
            "initial": lambda: models.fresh(base, int(models.metadata(run.input.base, number)["seed"])),
            "kept": lambda: run.read_tensors(run.input.kept, number),
        }
        filled = {name: make() for name, make in fill.items() if name in wanted}
        with run.timed():
            return unlearn(base, forget, retain, **filled, **run.params.keywords | tuned)

    headers = {number: {"data": digest, "seed": str(run.seed(number))} for number in numbers(run.wildcards["seed"])}
    run.keep_models(run.output.model, unlearned, headers)
