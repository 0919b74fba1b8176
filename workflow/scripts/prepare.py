"""Rule prepare: train a defense on the retained images, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, requests

    images = data.read(run.input.images).to(run.device)
    kept, lost = {}, {}
    for number in run.numbers:
        asked = [requests.read(file, images, number) for file in run.input.requests]
        _, retain = requests.all_of(images.splits["train"], asked)
        try:
            with run.timed():
                kept[number] = run.method("defenses").prepare(retain, run.seed(number), **run.asks.keywords)
        except models.Diverged as reason:
            kept[number], lost[number] = {}, {"diverged": str(reason)}
    run.write_tensors(run.output.prepared, kept, lost)
