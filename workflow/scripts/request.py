"""Rule request: what is asked to be forgotten, by rule and seed, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, requests

    images = data.read(run.input.images)
    chosen = {
        number: requests.Choice(seed=run.seed(number), repetition=number) for number in run.numbers
    }
    with run.writing(run.output.request) as path:
        requests.write(path, images, run.asks.method, run.asks.keywords, chosen)
