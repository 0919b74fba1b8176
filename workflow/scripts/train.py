"""Rule train: base models, all repetitions of a block, by the training loop or by an unlearner's `train_base`."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests, train, unlearners

    images = data.read(run.input.images)
    network = run.asks.network
    channels, pretrained = images.train_images.shape[1], run.input.get("pretrained", "")
    spec = models.Spec(network["method"], len(images.classes), channels, network["keywords"], pretrained)
    statistics = models.channel_statistics(images.train_images)
    images = images.to(run.device)
    task = run.task
    recipe = train.recipe_from(run.asks.recipe)
    samples = images.splits["train"]

    def trained(number):
        seed = run.seed(number)
        fresh = models.create(spec, *statistics, seed).to(run.device)
        with run.timed(number):
            if not run.asks.trainer:
                return train.fit(fresh, samples, recipe, seed=seed, task=task, checkpoint=run.checkpoint(number))
            known = [requests.read(file, images, number).indices for file in run.input.get("requests", ())]
            at = unlearners.Base(seed=seed, recipe=recipe, task=task, requests=known, checkpoint=run.checkpoint(number))
            own = run.method("unlearners", run.asks.trainer["method"])
            return own.train_base(fresh, samples, at, **run.asks.trainer["keywords"])

    digest = images.digest
    run.keep_models(trained, lambda number: {"data": digest, "seed": str(run.seed(number))})
