"""Rule choose: what shall be forgotten, chosen or crafted with a model at hand, all repetitions of a block."""

from functools import partial

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests, train, unlearners

    images = data.read(run.input.images).to(run.device)
    rule = requests.Rule(run.asks.method, run.asks.keywords, getattr(run.asks, "spares", ""))
    seeds = {number: run.seed(number) for number in run.numbers}
    against = recipe = None
    if "unlearner" in rule.needs:
        function = run.method("unlearners", run.asks.against["method"]).unlearn
        against = partial(function, **unlearners.gathered(function, run.asks.against["keywords"]))
        recipe = train.recipe_from(run.asks.recipe)

    def chosen(number):
        try:
            model = models.load(run.input.model, number).to(run.device)
            surrogate = models.load(run.input.surrogate, number).to(run.device) if "surrogate" in run.input else None
            kept = run.read_tensors(run.input.kept, number) if "kept" in run.input else None
        except models.Diverged as reason:
            return reason
        return rule.choose(images, requests.Choice(seeds[number], number, model, against, surrogate, recipe, kept))

    with run.writing(run.output.request) as path:
        requests.write({number: chosen(number) for number in run.numbers}, path, images, rule, seeds)
