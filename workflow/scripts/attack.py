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
        sought = run.input.original[run.numbers.index(number)], run.asks.aims[run.numbers.index(number)]
        model, original = (models.load(*one).to(run.device) for one in ((run.input.model, number), sought))
        aimed = aimed_at(run.asks.on, images, forget, retain, seed, run.asks.equally_sure, original, run.asks.at_most)
        at = OnImages(model, original, aimed, seed, run.task)
        with run.timed(number):
            made = run.method("attacks").attack(at, **run.asks.keywords)
        return {**made._asdict(), "clean": aimed.images, "labels": aimed.labels}

    run.keep_tensors(run.output.attacked, attacked, on=run.asks.on, epsilons=list(run.asks.keywords["epsilons"]))
