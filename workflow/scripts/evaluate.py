"""Rule evaluate: every metric of one unlearner's models, all repetitions."""

from functools import partial
from importlib import import_module
from itertools import islice

from palimpsest.pipeline.job import job
from palimpsest.pipeline.method import keywords
from palimpsest.seeds import numbers

with job(snakemake) as run:
    import torch

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

    def read_blocks(files):
        found = {}
        for block, file in zip(blocks, files, strict=True):
            for number in numbers(block):
                tensors = run.read_tensors(file, number)
                if tensors:  # none of a server that diverged
                    found[number] = {key: tensor.cpu() for key, tensor in tensors.items()}
        return found

    truth = {}
    for repetition, (index, number) in enumerate(places):
        forget, retain, _ = unlearners.split(images, run.input.forget[index], number)
        truth[number] = torch.isin(torch.arange(len(images.classes)), retain.labels.unique().cpu(), invert=True)
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
                    model,
                    images,
                    forget,
                    retain,
                    attacked,
                    defenses(repetition),
                    before,
                    run.params.members,
                    shown=bool(run.params.judges) and not repetition,
                )
            ]
        except models.Diverged as reason:
            rows.append({**about, "status": "diverged", "reason": str(reason)})
    probed, shadowed = iter(run.input.probed), iter(run.input.shadows)  # by attack, then by block
    for name, (method, settings, _) in run.params.judges.items():
        judge = partial(import_module(f"palimpsest.attacks.{method}").judge, **settings)
        found = read_blocks(islice(probed, len(blocks)))
        learns = "shadows" in keywords("attacks", method, "judge")
        shadows = read_blocks(islice(shadowed, len(blocks))) if learns else None
        rows += [
            {**run.wildcards, "repetition": number, "seed": str(run.seed(number)), **measured, "status": "ok"}
            for number, measured in evaluate.decide(
                judge, found, truth, {number: run.seed(number) for number in found}, shadows, name
            )
        ]
    run.write_rows(run.output.rows, rows)
