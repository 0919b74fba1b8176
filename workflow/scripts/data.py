"""Rule data: load one data set from the data root and keep it as tensors."""

from pathlib import Path

from palimpsest.pipeline import provenance
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest import data

    load = run.method("data").load
    with provenance.sources(run.asks.root) as sources:
        images = load(Path(run.asks.root), **run.asks.keywords)
    run.facts["sources"] = sources
    images = data.stratified(images, **run.asks.subset)
    images = data.hold_back(images, run.asks.hold_back)
    run.facts |= {"train": len(images.train_labels), "test": len(images.test_labels), "digest": images.digest}
    with run.writing(run.output.images) as path:
        data.save(images, path)
