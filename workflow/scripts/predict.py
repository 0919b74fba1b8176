"""Rule predict: a model's outputs, clean, under each attack and behind each defense, all repetitions of a block."""

from functools import partial

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data, models, numbered, predict, requests

    images = data.read(run.input.images).to(run.device)
    trained = dict(zip(run.asks.trained, run.input.prepared, strict=True))

    def defenses(number):
        found = {}
        for name, told in run.asks.defenses.items():
            purify = partial(run.method("defenses", told["method"]).purify, **told["keywords"])
            if name in trained and (lost := numbered.about(trained[name])[number].get("diverged")):
                raise models.Diverged(f"{name}: {lost}")
            kept = {"kept": run.read_tensors(trained[name], number)} if name in trained else {}
            found[name] = partial(purify, **kept)
        return found

    def original(number):
        return models.load(run.input.original, run.base(number)).to(run.device)

    made = {}
    for number in run.numbers:
        asked = [requests.read(file, images, number) for file in run.input.requests]
        forget, retain = requests.all_of(images.splits["train"], asked)
        try:
            model = models.load(run.input.model, number).to(run.device)
            before = original(number) if "original" in run.input else None
            attacked = {
                name: predict.read_attacked(file, number, run.device)
                for name, file in zip(run.asks.attacks, run.input.attacked, strict=True)
            }
            observer = models.load(run.input.observer, 0).to(run.device) if "observer" in run.input else None
            networks = {"before": before, "observer": observer, "task": run.task}
            made[number] = predict.outputs(model, images, forget, retain, attacked, defenses(number), **networks)
            made[number].tensors.update(requests.aim_of(asked))
            if "kept" in run.input:
                made[number].tensors.update(numbered.read(run.input.kept, number, below="told/"))
        except models.Diverged as reason:
            made[number] = predict.diverged(reason, images, retain)
        made[number].header["about"] = {"seed": models.metadata(run.input.model, number).get("seed", "")}
    with run.writing(run.output.outputs) as path:
        predict.save(made, path)
