"""Rule attack: one attack on one unlearned model, all repetitions."""

from importlib import import_module

from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest import attacks, data, models, unlearners

    attack = import_module(f"palimpsest.attacks.{run.params.method}").attack
    images = data.read(run.input.images).to(run.device)
    for repetition, output in enumerate(run.output.attacked):
        seed = run.seed(repetition)
        forget, retain, _ = unlearners.split(images, run.input.forget[repetition])
        aimed = attacks.aimed_at(run.params.on, images, forget, retain, seed)
        header = {"on": run.params.on, "epsilons": ",".join(run.params.keywords["epsilons"])}
        try:
            unlearned = models.load(run.input.unlearned[repetition]).to(run.device)
            original = models.load(run.input.base[repetition]).to(run.device)
        except models.Diverged as reason:
            run.write_tensors(output, {}, diverged=str(reason), **header)
            continue
        with run.timed():
            made = attack(unlearned, original, *aimed, seed=seed, **run.params.keywords)
        run.write_tensors(output, {**made._asdict(), "clean": aimed.images, "labels": aimed.labels}, **header)
