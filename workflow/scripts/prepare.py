"""Rule prepare: train a defense on the retained images, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, requests

    images = data.read(run.input.images).to(run.device)
    kept = {}
    for number in run.numbers:
        asked = [requests.read(file, images, number) for file in run.input.requests]
        with run.timed():
            kept[number] = run.method("defenses").prepare(
                requests.all_of(images.splits["train"], asked)[1], run.seed(number), **run.asks.keywords
            )
    run.write_tensors(run.output.prepared, kept)
