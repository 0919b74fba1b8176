"""Rule probe: what an attack on labels extracts from servers, all repetitions of a block."""

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import needs

with job(globals().get("snakemake")) as run:
    import torch

    from palimpsest import data, models, requests
    from palimpsest.attacks.on_labels import OnLabels

    method = run.method("attacks")
    images = data.read(run.input.images).to(run.device)
    needed = needs("attacks", run.asks.method)
    own = images.splits["train"] if "own_samples" in needed else None

    def forgotten(number):
        asked = [requests.read(file, images, number) for file in run.input.requests]
        kept = requests.all_of(images.splits["train"], asked)[1].labels.unique()
        return torch.isin(torch.arange(len(images.classes), device=kept.device), kept, invert=True).cpu()

    # A black-box attacker has a function from images to probabilities, and nothing else.
    access = getattr(method, "query_of", lambda server: server)
    shape = images.train_images.shape[1:]

    def probed(number):
        server = models.load(run.input.server, number).to(run.device)
        truth = forgotten(number) if "forgotten" in needed else None
        told = None if truth is None or run.asks.shadow else truth
        at = OnLabels(access(server), shape, len(images.classes), run.seed(number), own, told, run.device)
        with run.timed(number):
            made = method.attack(at, **run.asks.keywords)
        found = {name: torch.as_tensor(value) for name, value in made._asdict().items()}
        return found if truth is None else found | {"forgotten": truth}

    run.keep_tensors(run.output.probed, probed)
