"""Rule tune: choose the values of one unlearner's keywords for which the configuration has a grid."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests, train, tune, unlearners

    images = data.read(run.input.images).to(run.device)
    (block,) = run.asks.blocks
    number = int(block)
    asked = [requests.read(file, images, number) for file in run.input.requests]
    *_, (forget, retain, indices, replacement) = requests.steps(
        images.splits["train"], asked, same=run.asks.same, size=0
    )
    unlearn = run.method("unlearners").unlearn
    base = models.load(run.input.before[0], number).to(run.device)
    at = unlearners.Step(
        seed=run.seed(number),
        recipe=train.recipe_from(run.asks.recipe),
        task=run.task,
        indices=indices,
        replacement=replacement,
        kept=run.read_tensors(run.input.kept[0], number),
        initial=lambda: models.fresh(base, run.seed_of_base(number)),
    )

    def tried(**values):
        return unlearn(base, forget, retain, at, **unlearners.gathered(unlearn, run.asks.keywords | values)).network

    def measure(model):
        return tune.clean(model, images, forget, retain)

    retrained = measure(models.load(run.input.retrained, number).to(run.device))
    chosen, trials = tune.search(tried, measure, retrained, run.asks.grid)
    run.write_json(run.output.tuned, {"chosen": chosen, "retrained": retrained, "trials": trials})
