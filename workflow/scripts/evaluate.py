"""Rule evaluate: every metric of one unlearner's models, all repetitions."""

from functools import partial
from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers

with job(snakemake) as run:
    from palimpsest import data, evaluate, models, unlearners

    images = data.read(run.input.images).to(run.device)
    blocks = run.params.blocks
    # Where each repetition stands: the index of its block's file, and its number in it.
    places = [(index, number) for index, block in enumerate(blocks) for number in numbers(block)]
    count, rows = len(places), []

    def defenses(repetition):
        prepared = iter(run.input.prepared[repetition::count])  # by defense, then by seed
        found = {}
        for name, (method, settings, _) in run.params.defenses.items():
            asked = keywords("defenses", method)
            kept = {"kept": run.read_tensors(next(prepared))} if "kept" in asked else {}
            own = {key: value for key, value in settings.items() if key in asked}
            found[name] = partial(import_module(f"palimpsest.defenses.{method}").purify, **own, **kept)
        return found

    for repetition, (index, number) in enumerate(places):
        forget, retain, _ = unlearners.split(images, run.input.forget[index], number)
        files = [run.input.attacked[i * count + repetition] for i in range(len(run.params.attacks))]
        header = models.metadata(run.input.models[index], number)
        about = {**run.wildcards, "repetition": number, "seed": header.get("seed", "")}
        try:
            model = models.load(run.input.models[index], number).to(run.device)
            before = models.load(run.input.before[index], number).to(run.device) if run.input.before else None
            attacked = {
                name: evaluate.read_attacked(file, run.device)
                for name, file in zip(run.params.attacks, files, strict=True)
            }
            rows += [
                {**about, **found, "status": "ok"}
                for found in evaluate.measure(
                    model, images, forget, retain, attacked, defenses(repetition), before, run.params.members
                )
            ]
        except models.Diverged as reason:
            rows.append({**about, "status": "diverged", "reason": str(reason)})
    run.write_rows(run.output.rows, rows)
