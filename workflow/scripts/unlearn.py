"""Rule unlearn: one unlearner on one base model and forget set."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords

with job(snakemake) as run:
    from palimpsest import data, models, train, unlearners

    images = data.read(run.input.images).to(run.device)
    forget, retain = unlearners.split(images, run.input.forget)
    seed = run.seed(run.wildcards["seed"])
    filled = {
        "seed": seed,
        "recipe": train.recipe_from(run.params.recipe),
        "checkpoint": run.checkpoint(run.output.model),
    }
    wanted = {name: value for name, value in filled.items() if name in keywords("unlearners", run.params.method)}
    unlearn = import_module(f"palimpsest.unlearners.{run.params.method}").unlearn
    run.facts |= {"forget": len(forget.labels), "retain": len(retain.labels)}

    def unlearned():
        base = models.load(run.input.base).to(run.device)
        with run.timed():
            return unlearn(base, forget, retain, **wanted, **run.params.keywords)

    header = {"data": data.digest(run.input.images), "seed": str(seed)}
    run.keep_model(run.output.model, unlearned, **header)
