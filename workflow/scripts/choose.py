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

    def choice(number):
        base = run.base(number)
        source = base if run.asks.first else number
        model = models.load(run.input.model, source).to(run.device)
        files = run.input.surrogate if "surrogate" in run.input else ()
        others = tuple(models.load(file, base).to(run.device) for file in files)
        kept = run.read_tensors(run.input.kept, source) if "kept" in run.input else None
        # The weights with which training began depend on its seed alone.
        initial = partial(models.fresh, model, run.seed_of_base(base)) if against else None
        return requests.Choice(seeds[number], number, model, against, others, recipe, kept, initial)

    def chosen(numbers):
        try:
            return dict(zip(numbers, rule.choose_all(images, [choice(number) for number in numbers]), strict=True))
        except models.Diverged as reason:
            if len(numbers) == 1:
                return {numbers[0]: reason}
            return {number: one for each in numbers for number, one in chosen([each]).items()}

    together = [run.numbers] if rule.chooses_all else [[number] for number in run.numbers]
    made = {number: one for numbers in together for number, one in chosen(numbers).items()}
    with run.writing(run.output.request) as path:
        requests.write(made, path, images, rule, seeds, once=run.asks.once)
