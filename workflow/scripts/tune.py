"""Rule tune: choose the value of the keyword of one unlearner for which the configuration has a list."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, ranges, requests, train, tune, unlearners
    from palimpsest.seeds import numbers

    images = data.read(run.input.images).to(run.device)
    (block,) = run.asks.blocks
    unlearn = run.method("unlearners").unlearn
    allowed = ranges.parse(run.asks.admits).holds if run.asks.admits else lambda value: True

    def held_out(number):
        """The models that one repetition unlearns, by value, and its retrained model's metrics."""
        asked = [requests.read(file, images, number) for file in run.input.requests]
        served = requests.steps(images.splits["train"], asked, same=run.asks.same, size=0)
        *_, (forget, retain, indices, replacement) = served
        base = models.load(run.input.before[0], number).to(run.device)
        original = models.load(run.input.original, number).to(run.device) if "original" in run.input else None
        at = unlearners.Step(
            seed=run.seed(number),
            recipe=train.recipe_from(run.asks.recipe),
            task=run.task,
            indices=indices,
            replacement=replacement,
            kept=run.read_tensors(run.input.kept[0], number),
            splits=images.held_back,
            original=original,
            initial=lambda: models.fresh(base, run.seed_of_base(number)),
        )

        def measured(value):
            keywords = unlearners.gathered(unlearn, run.asks.keywords | {run.asks.tuned: value})
            return tune.clean(unlearn(base, forget, retain, at, **keywords).network, images, forget, retain)

        return measured, tune.clean(models.load(run.input.retrained, number).to(run.device), images, forget, retain)

    pairs = [held_out(number) for number in numbers(block)]
    found = tune.search(
        lambda value: [measured(value) for measured, _ in pairs],
        [retrained for _, retrained in pairs],
        run.asks.start,
        run.asks.trials,
        allowed,
    )
    run.write_json(
        run.output.tuned,
        {
            "chosen": {run.asks.tuned: found.chosen},
            "edge": found.edge,
            "retrained": [retrained for _, retrained in pairs],
            "trials": found.trials,
        },
    )
