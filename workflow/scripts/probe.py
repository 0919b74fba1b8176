"""Rule probe: what an attack on labels extracts from servers, all repetitions of a block."""

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import needs

with job(globals().get("snakemake")) as run:
    import torch

    from palimpsest import data, models
    from palimpsest.attacks.on_labels import OnLabels

    method = run.method("attacks")
    images = data.read(run.input.images).to(run.device)
    own = images.splits["train"] if "own_samples" in needs("attacks", run.asks.method) else None
    # A black-box attacker has a function from images to probabilities, and nothing else.
    access = getattr(method, "query_of", lambda server: server)
    shape = images.train_images.shape[1:]

    def probed(number):
        server = models.load(run.input.server, number).to(run.device)
        at = OnLabels(access(server), shape, len(images.classes), run.seed(number), own, run.device)
        with run.timed():
            made = method.attack(at, **run.asks.keywords)
        return {name: torch.as_tensor(value) for name, value in made._asdict().items()}

    run.keep_tensors(run.output.probed, probed)
