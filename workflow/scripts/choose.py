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
        base = run.base(number)
        source = base if run.asks.first else number
        try:
            model = models.load(run.input.model, source).to(run.device)
            surrogate = models.load(run.input.surrogate, base).to(run.device) if "surrogate" in run.input else None
            kept = run.read_tensors(run.input.kept, source) if "kept" in run.input else None
            choice = requests.Choice(seeds[number], number, model, against, surrogate, recipe, kept)
            return rule.choose(images, choice)
        except models.Diverged as reason:
            return reason

    made = {number: chosen(number) for number in run.numbers}
    with run.writing(run.output.request) as path:
        requests.write(made, path, images, rule, seeds, once=run.asks.once)
