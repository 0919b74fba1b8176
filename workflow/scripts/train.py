"""Rule train: base models, all repetitions of a block."""

from palimpsest.pipeline.job import job
from palimpsest.seeds import numbers

with job(snakemake) as run:
    from palimpsest import data, models, train

    images = data.read(run.input.images)
    spec = models.Spec(run.params.method, len(images.classes), images.train_images.shape[1], run.params.keywords)
    statistics = models.channel_statistics(images.train_images)
    images = images.to(run.device)
    digest = data.digest(run.input.images)

    def trained(number):
        return train.fit(
            models.create(spec, *statistics, run.seed(number)).to(run.device),
            images.train_images,
            images.train_labels,
            train.recipe_from(run.params.recipe),
            seed=run.seed(number),
            checkpoint=run.checkpoint(run.output.model, number),
        )

    headers = {number: {"data": digest, "seed": str(run.seed(number))} for number in numbers(run.wildcards["seed"])}
    run.keep_models(run.output.model, trained, headers)
