"""Rule pretrained: a network's published weights, from the data root or an installed package, under its own names."""

from pathlib import Path

from palimpsest.pipeline import provenance
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from safetensors.torch import save_file

    from palimpsest import pretrained

    path, mend = pretrained.find(Path(run.asks.root), **run.asks.pretrained)
    published = pretrained.read(path, run.asks.pretrained["sha256"], mend)
    package = run.asks.pretrained.get("package")
    name = f"{provenance.PACKAGES}/{run.asks.pretrained['file']}" if package else str(path)
    run.facts["sources"] = provenance.digests({name: path})
    kept = pretrained.fitted(published, run.method("models"), run.asks.keywords, path, mend)
    with run.writing(run.output.weights) as temporary:
        save_file(kept, str(temporary))
