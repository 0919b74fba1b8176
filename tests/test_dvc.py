"""DVC beside Snakemake, with the project's own dvc.yaml: results travel, arrive whole, and are not computed again."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
import yaml
from moto.server import ThreadedMotoServer
from test_workflow import TINY, jobs

ROOT = Path(__file__).parents[1]
BASE = "results/tiny/base/digits/small_cnn_narrow/plain/0.safetensors"
ARCHIVE = bytes(range(256)) * 100
SCALE = {
    "stand_ins": TINY["stand_ins"],
    "budgets": {"unlearners": {"finetune": {"epochs": 1, "lr": 0.01}}, "attacks": {"uma": {"steps": 2}}},
    "repetitions": 1,
    "warm_start": True,
}


def run(folder: Path, command: str, fails: bool = False) -> str:
    """What a command line of the README says in `folder`, output and errors together."""
    done = subprocess.run(command, shell=True, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode != 0) == fails, f"{command}: {done.stdout[-5000:]}"
    return done.stdout


def clone(project: Path, folder: Path) -> Path:
    """A fresh clone of what `project` has committed."""
    run(project, f"git clone --quiet . {folder}")
    return folder


def object_of(md5: str) -> str:
    """Where a DVC remote keeps an object, below its URL."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def run_by_dvc(said: str) -> dict[str, int]:
    """The job counts of the Snakemake run inside a `dvc repro`."""
    return jobs(said.split("Select jobs")[0])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project as git has it, with one small table of its own at a scale of its own; run, kept, pushed beside it."""
    place = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
            patch.setenv(name, str(place / name))
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "lab")
            patch.setenv(f"GIT_{who}_EMAIL", "lab@example.org")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        copy = place / "project"
        for name in run(ROOT, "git ls-files --cached --others --exclude-standard").splitlines():
            if (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        about = copy / "config/papers/uma/paper.yaml"
        for other in set((copy / "config/papers").iterdir()) - {about.parent}:
            for file in set(other.iterdir()) - {other / "config.yaml"}:
                file.unlink()
        paper = yaml.safe_load(about.read_text())
        only = {"figures": {}, "tables": {"table1": paper["tables"]["table1"]}, "claims": paper["claims"][:1]}
        about.write_text(yaml.safe_dump(paper | only))
        table = about.with_name("table1.csv")
        for other in set(about.parent.glob("*.csv")) - {table}:
            other.unlink()
        rows = list(csv.reader(table.open()))
        kept = [row for row in rows[1:] if row[0] == "cifar10" and row[3] in ("original", "retrain", "finetune")]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        (copy / "config/scales/tiny.yaml").write_text(yaml.safe_dump(SCALE))
        stage = copy / "dvc.yaml"
        stage.write_text(stage.read_text().replace("- scale: demo", "- scale: tiny", 1))
        run(copy, "git init --quiet && git add . && git commit --quiet --message code")
        run(copy, "snakemake --cores 2 --config scale=tiny")
        run(copy, "dvc commit --force reproduce")
        run(copy, "git add dvc.lock && git commit --quiet --message results && dvc push")
        yield copy


def test_a_clone_that_pulls_has_nothing_to_do(project: Path) -> None:
    colleague = clone(project, project.parent / "colleague")
    run(colleague, "dvc pull")
    assert (colleague / BASE).read_bytes() == (project / BASE).read_bytes()
    assert "Nothing to be done" in run(colleague, "snakemake --cores 2 --config scale=tiny")
    assert "Stage 'reproduce' didn't change, skipping" in run(colleague, "dvc repro")
    assert run(colleague, "git status --short") == ""


def test_a_changed_value_redoes_only_what_depends_on_it(project: Path) -> None:
    folder = clone(project, project.parent / "changed")
    run(folder, "dvc pull")
    trained = (folder / BASE).stat()
    budgets = SCALE["budgets"] | {"unlearners": {"finetune": {"epochs": 2, "lr": 0.01}}}
    (folder / "config/scales/tiny.yaml").write_text(yaml.safe_dump(SCALE | {"budgets": budgets}))
    said = run(folder, "dvc repro")
    redone = {"unlearn": 1, "attack": 1, "predict": 1, "measure": 1, "table": 1, "page": 1, "front": 1, "all": 1}
    assert run_by_dvc(said) == redone | {"total": sum(redone.values())}, said
    kept = (folder / BASE).stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (trained.st_ino, trained.st_mtime_ns), "persist: not deleted, not touched"
    changed = {line.split()[1] for line in run(folder, "git status --short").splitlines()}
    assert changed == {"config/scales/tiny.yaml", "dvc.lock"}
    assert "Stage 'reproduce' didn't change, skipping" in run(folder, "dvc repro")
    assert not (folder / ".dvc/cache/runs").exists(), "from a run-cache DVC would put an old run over the results"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@dataclass(frozen=True)
class Store:
    """A remote and a clone that has pushed to it. files, root: how the test itself reaches the remote's objects."""

    giver: Path
    files: fsspec.AbstractFileSystem
    root: str


@pytest.fixture(scope="module", params=["folder", "s3"])
def store(request: pytest.FixtureRequest, project: Path) -> Store:
    """Results and a raw archive in another remote than the one beside the clone."""
    giver = clone(project, project.parent / f"giver-{request.param}")
    run(giver, "dvc pull")
    (giver / "data").mkdir()
    (giver / "data/cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    run(giver, "dvc add data/cifar-10-python.tar.gz")
    if request.param == "s3":
        address, root = request.getfixturevalue("endpoint"), "lab/palimpsest"
        files = fsspec.filesystem("s3", endpoint_url=address)
        files.mkdir("lab")
        run(giver, "dvc remote add --default lab s3://lab/palimpsest")
        run(giver, f"dvc remote modify lab endpointurl {address}")
    else:
        files, root = fsspec.filesystem("file"), str(project.parent / "shared")
        run(giver, f"dvc remote add --default lab {root}")
    run(giver, "dvc remote modify lab verify true")
    run(giver, "git add data/*.dvc .dvc/config && git commit --quiet --message lab")
    run(giver, "dvc push")
    assert run(giver, "git status --short") == ""
    return Store(giver, files, root)


def test_results_and_raw_archives_travel_through_other_stores(store: Store) -> None:
    taker = clone(store.giver, store.giver.with_name(f"{store.giver.name}-taker"))
    run(taker, "dvc pull")
    assert (taker / "data/cifar-10-python.tar.gz").read_bytes() == ARCHIVE
    assert (taker / BASE).read_bytes() == (store.giver / BASE).read_bytes()
    assert "Nothing to be done" in run(taker, "snakemake --cores 2 --config scale=tiny")
    assert "Stage 'reproduce' didn't change, skipping" in run(taker, "dvc repro")


def test_a_damaged_object_is_noticed_and_can_be_mended(store: Store) -> None:
    content = (store.giver / BASE).read_bytes()
    name = object_of(hashlib.md5(content, usedforsecurity=False).hexdigest())
    store.files.rm(f"{store.root}/{name}")
    store.files.pipe(f"{store.root}/{name}", content[:-1] + bytes([content[-1] ^ 1]))
    victim = clone(store.giver, store.giver.with_name(f"{store.giver.name}-victim"))

    said = run(victim, "dvc pull --verbose", fails=True)
    assert re.search(f"corrupted cache file .*{name}", said), said
    assert "Checkout failed for following targets:\nresults/tiny" in said
    assert not (victim / "results/tiny").exists(), "all or nothing"
    assert f"\n        {BASE}\n" in run(victim, "dvc data status --granular").split("uncommitted")[0]

    # Without the folder's list DVC would believe what it once pushed to be there still.
    outs = yaml.safe_load((store.giver / "dvc.lock").read_text())["stages"]["reproduce"]["outs"]
    (listed,) = (out["md5"] for out in outs if out["path"] == "results/tiny")
    store.files.rm([f"{store.root}/{name}", f"{store.root}/{object_of(listed)}"])
    assert "2 files pushed" in run(store.giver, "dvc push")
    run(victim, "dvc pull")
    assert (victim / BASE).read_bytes() == content
