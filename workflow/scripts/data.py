"""Rule data: load one data set from the data root and keep it as tensors."""

from importlib import import_module
from pathlib import Path

from palimpsest.pipeline import provenance
from palimpsest.pipeline.job import job

with job(snakemake) as run:
    from palimpsest import data

    load = import_module(f"palimpsest.data.{run.params.method}").load
    with provenance.sources(run.params.root) as sources:
        images = load(Path(run.params.root), **run.params.keywords)
    run.facts["sources"] = sources
    if run.params.subset:
        images = data.stratified(images, **run.params.subset)
    run.facts |= {"train": len(images.train_labels), "test": len(images.test_labels), "digest": images.digest}
    with run.writing(run.output.images) as path:
        data.save(images, path)
