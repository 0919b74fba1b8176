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
    # Every repetition starts from its own run of the step before, or all start from one of those runs.
    nearest = nearest_to_the_mean(run.input.rows, run.asks.from_nearest) if run.asks.from_nearest else None
    held_out = getattr(run.asks, "base", None)  # one base for all repetitions, which no table uses

    def stepped(number):
        source = number if nearest is None else nearest
        place = next(i for i, block in enumerate(run.asks.blocks) if source in numbers(block))
        several = len(run.input.requests) // len(run.asks.blocks)
        files = run.input.requests[place * several : (place + 1) * several]
        asked = [requests.read(file, images, source) for file in files]
        start = source if held_out is None else held_out
        made = unlearners.Unlearned(
            models.load(run.input.before[place], start).to(run.device),
            run.read_tensors(run.input.kept[place], start),
        )
        base = made.network
        original = models.load(run.input.original, start).to(run.device) if "original" in run.input else None
        served = requests.steps(images.splits["train"], asked, same=run.asks.same, size=run.asks.served)
        for part, (forget, retain, indices, replacement) in enumerate(served):
            run.facts |= {"forget": len(forget.labels), "retain": len(retain.labels)}
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
                initial=lambda: models.fresh(base, run.seed_of_base(start)),
                checkpoint=run.checkpoint(number, part),
            )
            with run.timed():
                made = unlearn(made.network, forget, retain, at, **keywords)
        return made

    digest = images.digest
    run.keep_models(stepped, lambda number: {"data": digest, "seed": str(run.seed(number))})
