"""Rule measure: every metric that some cell needs of a model, all repetitions, from its saved outputs."""

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import measure, models, numbered, predict

    blocks = run.asks.blocks
    predicted = {}
    for file in run.input.outputs:
        predicted |= predict.read(file)
    truth = {number: one.tensors["forgotten"] for number, one in predicted.items()}

    def found(files, attack, among):
        """Return by repetition what an attack on labels extracted from the server, or why it extracted nothing."""
        start, found = among.index(attack) * len(blocks), {}
        for file in files[start : start + len(blocks)]:
            for number, about in numbered.about(file).items():
                lost = about.get("diverged")
                found[number] = models.Diverged(lost) if lost else numbered.read(file, number)
        return found

    judged = {}
    for name, told in run.asks.judges.items():
        probed = found(run.input.probed, name, list(run.asks.judges))
        shadows = found(run.input.shadows, name, run.asks.shadowed) if name in run.asks.shadowed else {}
        judged[name] = measure.judge(
            run.method("attacks", told["method"]).judge,
            probed,
            truth,
            {number: run.seed(number) for number in probed},
            shadows,
            **told["keywords"],
        )
    rows = measure.measure(predicted, run.asks.metrics, judged, task=run.asks.task, shows=run.asks.shows)
    run.write_json(run.output.rows, *({**run.names, **row} for row in rows))
