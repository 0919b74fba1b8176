"""Rule probe: what an attack on labels gets out of servers, all repetitions of a block."""

from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers

with job(snakemake) as run:
    import torch

    from palimpsest import data, models

    method = import_module(f"palimpsest.attacks.{run.params.method}")
    images = data.read(run.input.images).to(run.device)
    fill = {"own_samples": data.Samples(images.train_images, images.train_labels), "device": run.device}
    filled = {name: fill[name] for name in fill.keys() & keywords("attacks", run.params.method)}
    # An attacker outside has a function from images to probabilities, and nothing else.
    access = getattr(method, "query_of", lambda server: server)
    shape, found, lost = images.train_images.shape[1:], {}, {}
    for number in numbers(run.wildcards["seed"]):
        try:
            server = models.load(run.input.server, number).to(run.device)
            with run.timed():
                made = method.attack(
                    access(server),
                    shape,
                    len(images.classes),
                    seed=run.seed(number),
                    **filled,
                    **run.params.keywords,
                )
        except models.Diverged as reason:
            lost[f"diverged {number}"] = str(reason)
        else:
            made = {name: torch.as_tensor(value) for name, value in made._asdict().items()}
            found |= {f"{number}/{name}": tensor for name, tensor in made.items()}
    run.write_tensors(run.output.probed, found, several="yes", **lost)
