"""Rule train_own: base models of an unlearner that trains them in its own way, and what that leaves for unlearning."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers, stable_seed

with job(snakemake) as run:
    from palimpsest import data, models, train, unlearners

    images = data.read(run.input.images)
    spec = models.Spec(run.params.method, len(images.classes), images.train_images.shape[1], run.params.keywords)
    statistics = models.channel_statistics(images.train_images)
    images = images.to(run.device)
    digest = data.digest(run.input.images)
    train_base = import_module(f"palimpsest.unlearners.{run.params.unlearner}").train_base
    asked = keywords("unlearners", run.params.unlearner, "train_base")
    # The seed of rule `train`: the same fresh weights and batches as the plain base model's.
    cell = {name: run.wildcards[name] for name in ("dataset", "model")}
    seeds = {number: stable_seed("train", cell, number) for number in numbers(run.wildcards["seed"])}
    run.facts["seeds"] = {str(number): seed for number, seed in seeds.items()}

    def trained(number):
        fill = {
            "checkpoint": lambda: run.checkpoint(run.output.model, number),
            "requests": lambda: [unlearners.split(images, file, number)[2] for file in run.input.requests],
        }
        model, kept = train_base(
            models.create(spec, *statistics, seeds[number]).to(run.device),
            data.Samples(images.train_images, images.train_labels),
            seed=seeds[number],
            recipe=train.recipe_from(run.params.recipe),
            **{name: make() for name, make in fill.items() if name in asked},
            **run.params.settings,
        )
        return model, kept

    headers = {number: {"data": digest, "seed": str(seed)} for number, seed in seeds.items()}
    run.keep_models(run.output.model, trained, headers, kept=run.output.kept)
