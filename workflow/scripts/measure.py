"""Rule measure: every metric that some cell needs of a model, all repetitions, from its saved outputs."""

import json
from pathlib import Path

from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import measure, models, numbered, predict

    blocks = run.asks.blocks
    predicted = {}
    for file in run.input.outputs:
        predicted |= predict.read(file)
    truth = {number: one.tensors["forgotten"] for number, one in predicted.items()}

    def found(files):
        """Return by repetition what an attack on labels extracted from the server, or why it extracted nothing."""
        found = {}
        for file in files:
            for number, about in numbered.about(file).items():
                lost = about.get("diverged")
                found[number] = models.Diverged(lost) if lost else numbered.read(file, number)
        return found

    def shadows(counts):
        """Return what was extracted from the shadow servers, and what each forgot: of both kinds in turn."""
        kinds = []
        for count in counts:
            files = [next(shadowed) for _ in range(count)]
            kinds.append([(one, one["forgotten"]) for one in found(files).values() if isinstance(one, dict)])
        return (kinds[0], kinds[-1]) if kinds else ([], [])

    judged, shadowed, several = {}, iter(run.input.shadows), len(blocks)
    for place, (name, told) in enumerate(run.asks.judges.items()):
        probed = found(run.input.probed[place * several : (place + 1) * several])
        judged[name] = measure.judge(
            run.method("attacks", told["method"]).judge,
            probed,
            truth,
            {number: run.seed(number) for number in probed},
            *shadows(run.asks.shadows.get(name, ())),
            **told["keywords"],
        )
    seconds = {}
    if "trained" in run.input:
        taken = {
            name: measure.taken(json.loads(Path(file).read_text()) for file in run.input[name])
            for name in ("trained", "unlearned")
        }
        bases, trained = run.asks.bases, taken["trained"]
        training = {number: trained[base] for number, base in enumerate(bases) if base in trained}
        seconds = {"unlearning": taken["unlearned"], "training": training}
    more = {"task": run.asks.task, "shows": run.asks.shows}
    rows = measure.measure(predicted, run.asks.metrics, judged, seconds=seconds, **more)
    run.write_json(run.output.rows, *({**run.names, **row} for row in rows))
