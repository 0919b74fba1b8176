"""Rule tune: the values of one unlearner's keywords that the configuration leaves to tuning."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords

with job(snakemake) as run:
    from palimpsest import data, evaluate, models, train, tune, unlearners

    images = data.read(run.input.images).to(run.device)
    forget, retain, indices = unlearners.split(images, run.input.forget)
    unlearn = import_module(f"palimpsest.unlearners.{run.params.method}").unlearn
    base = models.load(run.input.base).to(run.device)
    seed = run.seed(run.params.repetition)
    fill = {
        "seed": lambda: seed,
        "recipe": lambda: train.recipe_from(run.params.recipe),
        "indices": lambda: indices,
        "initial": lambda: models.fresh(base, int(models.metadata(run.input.base)["seed"])),
        "kept": lambda: run.read_tensors(run.input.kept),
    }
    filled = {name: make() for name, make in fill.items() if name in keywords("unlearners", run.params.method)}

    def measure(model):
        return tune.in_points(evaluate.measure(model, images, forget, retain, {}))

    chosen, trials = tune.search(
        lambda **values: unlearn(base, forget, retain, **filled, **run.params.keywords | values),
        measure,
        retrained := measure(models.load(run.input.retrained).to(run.device)),
        run.params.grid,
    )
    run.write_json(run.output.tuned, {"chosen": chosen, "retrained": retrained, "trials": trials})
