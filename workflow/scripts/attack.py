"""Rule attack: one attack on one unlearned model, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests
    from palimpsest.attacks.on_images import OnImages, aimed_at

    images = data.read(run.input.images).to(run.device)

    def attacked(number):
        seed = run.seed(number)
        asked = [requests.read(file, images, number) for file in run.input.requests]
        forget, retain = requests.all_of(images.splits["train"], asked)
        aimed = aimed_at(run.asks.on, images, forget, retain, seed)
        model, original = (models.load(path, number).to(run.device) for path in (run.input.model, run.input.original))
        at = OnImages(model, original, aimed, seed, run.task)
        with run.timed():
            made = run.method("attacks").attack(at, **run.asks.keywords)
        return {**made._asdict(), "clean": aimed.images, "labels": aimed.labels}

    run.keep_tensors(run.output.attacked, attacked, on=run.asks.on, epsilons=list(run.asks.keywords["epsilons"]))
