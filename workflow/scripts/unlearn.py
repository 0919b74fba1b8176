"""Rule unlearn: one step of a chain, on a base model or on the step before, all repetitions of a block."""

import json
from pathlib import Path

from palimpsest.pipeline.job import job, nearest_to_the_mean
from palimpsest.seeds import numbers

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests, train, unlearners

    images = data.read(run.input.images).to(run.device)
    recipe, task = train.recipe_from(run.asks.recipe), run.task
    unlearn = run.method("unlearners").unlearn
    tuned = json.loads(Path(run.input.tuned).read_text())["chosen"] if "tuned" in run.input else {}
    run.facts["tuned"] = tuned
    keywords = unlearners.gathered(unlearn, run.asks.keywords | tuned)

    def before(number):
        place = next(i for i, block in enumerate(run.asks.blocks) if number in numbers(block))
        kept = run.read_tensors(run.input.kept[place], number)
        return unlearners.Unlearned(models.load(run.input.before[place], number).to(run.device), kept)

    def right(number):
        test = images.splits["test"]
        try:
            answers = models.predict(before(number).network, test.images, task=task)
        except models.Diverged:
            return None
        return (task.decided(answers) == task.targets(test)).double().mean().item()

    # Every repetition goes on from its own run of the step before, or all from the one nearest the mean accuracy.
    every = [number for block in run.asks.blocks for number in numbers(block)] if run.asks.from_nearest else []
    nearest = nearest_to_the_mean({number: right(number) for number in every}) if every else None
    run.facts["nearest"] = nearest

    def stepped(number):
        base = run.base(number)
        source = base if run.asks.first else number if nearest is None else nearest
        asked = [requests.read(file, images, number) for file in run.input.requests]
        made = start = before(source)
        original = models.load(run.input.original, base).to(run.device) if "original" in run.input else None
        served = requests.steps(images.splits["train"], asked, same=run.asks.same, size=run.asks.served)
        forgotten = 0
        for part, (forget, retain, indices, replacement) in enumerate(served):
            forgotten += len(forget.labels)
            run.facts |= {"forget": forgotten, "retain": len(retain.labels)}
            at = unlearners.Step(
                seed=run.seed(number),
                recipe=recipe,
                task=task,
                indices=indices,
                replacement=replacement,
                kept=made.kept,
                splits=images.held_back,
                original=original,
                # The weights with which training began depend on its seed alone.
                initial=lambda: models.fresh(start.network, run.seed_of_base(base)),
                checkpoint=run.checkpoint(number, part),
            )
            with run.timed(number):
                made = unlearn(made.network, forget, retain, at, **keywords)
        return made

    digest = images.digest
    run.keep_models(stepped, lambda number: {"data": digest, "seed": str(run.seed(number))})
