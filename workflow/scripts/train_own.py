"""Rule train_own: the base model of an unlearner that trains it in its own way, and what that leaves for unlearning."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import stable_seed

with job(snakemake) as run:
    from palimpsest import data, models, train, unlearners

    images = data.read(run.input.images)
    spec = models.Spec(run.params.method, len(images.classes), images.train_images.shape[1], run.params.keywords)
    statistics = models.channel_statistics(images.train_images)
    images = images.to(run.device)
    # The seed of rule `train`: the same fresh weights and batches as the plain base model's.
    cell = {name: run.wildcards[name] for name in ("dataset", "model")}
    seed = run.facts["seed"] = stable_seed("train", cell, int(run.wildcards["seed"]))
    train_base = import_module(f"palimpsest.unlearners.{run.params.unlearner}").train_base
    fill = {
        "checkpoint": lambda: run.checkpoint(run.output.model),
        "requests": lambda: [unlearners.split(images, file)[2] for file in run.input.requests],
    }
    asked = keywords("unlearners", run.params.unlearner, "train_base")

    def trained():
        model, kept = train_base(
            models.create(spec, *statistics, seed).to(run.device),
            unlearners.Samples(images.train_images, images.train_labels),
            seed=seed,
            recipe=train.recipe_from(run.params.recipe),
            **{name: make() for name, make in fill.items() if name in asked},
            **run.params.settings,
        )
        run.write_tensors(run.output.kept, kept)
        return model

    run.keep_model(run.output.model, trained, data=data.digest(run.input.images), seed=str(seed))
    if "status" in run.facts:  # diverged: nothing was left
        run.write_tensors(run.output.kept, {})
