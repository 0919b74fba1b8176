"""Rule probe: what an attack on labels asks of servers, all repetitions of a block."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers

with job(snakemake) as run:
    from palimpsest import data, models, unlearners

    probe = import_module(f"palimpsest.attacks.{run.params.method}").probe
    images = data.read(run.input.images).to(run.device)
    samples = unlearners.Samples(images.train_images, images.train_labels)
    found, lost = {}, {}
    for number in numbers(run.wildcards["seed"]):
        try:
            server = models.load(run.input.server, number).to(run.device)
        except models.Diverged as reason:
            lost[f"diverged{number}"] = str(reason)
            continue
        with run.timed():
            made = probe(server, samples, seed=run.seed(number), **run.params.keywords)
        found |= {f"{number}/{name}": tensor for name, tensor in made._asdict().items()}
    run.write_tensors(run.output.probed, found, several="yes", **lost)
