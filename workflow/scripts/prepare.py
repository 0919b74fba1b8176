"""Rule prepare: train a defense on the retained images, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, requests

    images = data.read(run.input.images).to(run.device)

    def prepared(number):
        asked = [requests.read(file, images, number) for file in run.input.requests]
        _, retain = requests.all_of(images.splits["train"], asked)
        with run.timed(number):
            return run.method("defenses").prepare(retain, run.seed(number), **run.asks.keywords)

    run.keep_tensors(run.output.prepared, prepared)
