"""Rule request: what shall be forgotten, by rule and seed, all repetitions of a block."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, requests

    images = data.read(run.input.images)
    rule = requests.Rule(run.asks.method, run.asks.keywords, getattr(run.asks, "spares", ""))
    seeds = {number: run.seed(number) for number in run.numbers}
    made = {number: rule.choose(images, requests.Choice(seed, number)) for number, seed in seeds.items()}
    with run.writing(run.output.request) as path:
        requests.write(made, path, images, rule, seeds)
