"""Rule evaluate: every metric of one unlearner's models, all repetitions."""

from functools import partial
from importlib import import_module

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords

with job(snakemake) as run:
    from palimpsest import data, evaluate, models, unlearners

    images = data.read(run.input.images).to(run.device)
    count, rows = len(run.input.models), []

    def defenses(repetition):
        prepared = iter(run.input.prepared[repetition::count])  # by defense, then by seed
        found = {}
        for name, (method, settings, _) in run.params.defenses.items():
            asked = keywords("defenses", method)
            kept = {"kept": run.read_tensors(next(prepared))} if "kept" in asked else {}
            own = {key: value for key, value in settings.items() if key in asked}
            found[name] = partial(import_module(f"palimpsest.defenses.{method}").purify, **own, **kept)
        return found

    for repetition, path in enumerate(run.input.models):
        forget, retain, _ = unlearners.split(images, run.input.forget[repetition])
        files = [run.input.attacked[i * count + repetition] for i in range(len(run.params.attacks))]
        about = {**run.wildcards, "repetition": repetition, "seed": models.metadata(path).get("seed", "")}
        try:
            model = models.load(path).to(run.device)
            attacked = {
                name: evaluate.read_attacked(file, run.device)
                for name, file in zip(run.params.attacks, files, strict=True)
            }
            rows += [
                {**about, **found, "status": "ok"}
                for found in evaluate.measure(model, images, forget, retain, attacked, defenses(repetition))
            ]
        except models.Diverged as reason:
            rows.append({**about, "status": "diverged", "reason": str(reason)})
    run.write_rows(run.output.rows, rows)
