"""Rule train: one base model."""

from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest import data, models, train

    images = data.read(run.input.images)
    seed = run.seed(run.wildcards["seed"])
    spec = models.Spec(run.params.method, len(images.classes), images.train_images.shape[1], run.params.keywords)
    statistics = models.channel_statistics(images.train_images)
    images = images.to(run.device)
    run.keep_model(
        run.output.model,
        lambda: train.fit(
            models.create(spec, *statistics, seed).to(run.device),
            images.train_images,
            images.train_labels,
            train.recipe_from(run.params.recipe),
            seed=seed,
            checkpoint=run.checkpoint(run.output.model),
        ),
        data=data.digest(run.input.images),
        seed=str(seed),
    )
