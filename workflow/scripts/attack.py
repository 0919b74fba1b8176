"""Rule attack: one attack on one unlearned model, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests
    from palimpsest.attacks.on_images import OnImages, aimed_at

    images = data.read(run.input.images).to(run.device)
    found, about = {}, {}
    for number, path, other in zip(run.numbers, run.input.original, run.asks.aims, strict=True):
        seed = run.seed(number)
        asked = [requests.read(file, images, number) for file in run.input.requests]
        forget, retain = requests.all_of(images.splits["train"], asked)
        about[number] = {"on": run.asks.on, "epsilons": list(run.asks.keywords["epsilons"])}
        try:
            model, original = (models.load(*one).to(run.device) for one in ((run.input.model, number), (path, other)))
            aimed = aimed_at(run.asks.on, images, forget, retain, seed, run.asks.equally_sure, original)
            at = OnImages(model, original, aimed, seed, run.task)
            with run.timed():
                made = run.method("attacks").attack(at, **run.asks.keywords)
            found[number] = {**made._asdict(), "clean": aimed.images, "labels": aimed.labels}
        except models.Diverged as reason:
            found[number], about[number]["diverged"] = {}, str(reason)
    run.write_tensors(run.output.attacked, found, about)
