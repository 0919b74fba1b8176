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
from pathlib import Path

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from test_workflow import TINY, jobs

ROOT = Path(__file__).parents[1]
BASE = "results/tiny/base/digits/small_cnn_narrow/seed0.safetensors"
SCALE = {
    "stand_ins": TINY["stand_ins"],
    "budgets": {"unlearners": {"finetune": {"epochs": 1}}, "attacks": {"uma": {"steps": 2}}},
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


def in_store(store: Path, file: Path) -> Path:
    """Where a DVC remote keeps the bytes of `file`."""
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    return store / "files/md5" / md5[:2] / md5[2:]


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
        copy = place / "project"
        for name in run(ROOT, "git ls-files --cached --others --exclude-standard").splitlines():
            if (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        shutil.rmtree(copy / "config/papers/leakage")
        about = copy / "config/papers/uma/paper.yaml"
        paper = yaml.safe_load(about.read_text())
        only = {"tables": {"table1": paper["tables"]["table1"]}, "claims": paper["claims"][:1]}
        about.write_text(yaml.safe_dump(paper | only))
        table = copy / "config/papers/uma/table1.csv"
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
    budgets = SCALE["budgets"] | {"unlearners": {"finetune": {"epochs": 2}}}
    (folder / "config/scales/tiny.yaml").write_text(yaml.safe_dump(SCALE | {"budgets": budgets}))
    said = run(folder, "dvc repro")
    redone = {"unlearn": 1, "attack": 1, "evaluate": 1, "table": 1, "page": 1, "all": 1}
    assert run_by_dvc(said) == redone | {"total": sum(redone.values())}, said
    kept = (folder / BASE).stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (trained.st_ino, trained.st_mtime_ns), "persist: not deleted, not touched"
    changed = {line.split()[1] for line in run(folder, "git status --short").splitlines()}
    assert changed == {"config/scales/tiny.yaml", "dvc.lock"}
    assert "Stage 'reproduce' didn't change, skipping" in run(folder, "dvc repro")
    assert not (folder / ".dvc/cache/runs").exists(), "from a run-cache DVC would put an old run over the results"


def test_a_damaged_object_is_noticed_and_can_be_mended(project: Path) -> None:
    store = project.parent / "elsewhere/palimpsest-store"
    shutil.copytree(project.parent / "palimpsest-store", store)
    folder = clone(project, store.parent / "clone")
    damaged = in_store(store, project / BASE)
    content = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    said = run(folder, "dvc pull --verbose", fails=True)
    assert "Checkout failed for following targets:\nresults/tiny" in said
    assert re.search(f"corrupted cache file .*{damaged.relative_to(store)}", said), said
    assert not (folder / "results/tiny").exists(), "all or nothing"
    assert f"\n        {BASE}\n" in run(folder, "dvc data status --granular").split("uncommitted")[0]

    damaged.unlink()
    run(project, f"dvc remote add --local elsewhere {store}")
    assert "1 file pushed" in run(project, "dvc push --remote elsewhere")
    run(folder, "dvc pull")
    assert (folder / BASE).read_bytes() == content


def test_results_and_raw_archives_travel_through_s3(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    archive = os.urandom(100_000)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="lab")
        giver = clone(project, project.parent / "giver")
        run(giver, "dvc pull")
        (giver / "data").mkdir()
        (giver / "data/cifar-10-python.tar.gz").write_bytes(archive)
        run(giver, "dvc add data/cifar-10-python.tar.gz")
        run(giver, "dvc remote add --default lab s3://lab/palimpsest")
        run(giver, f"dvc remote modify lab endpointurl http://{host}:{port}")
        run(giver, "dvc remote modify lab verify true")
        run(giver, "git add data .dvc/config && git commit --quiet --message lab && dvc push")
        assert run(giver, "git status --short") == ""

        taker = clone(giver, project.parent / "taker")
        run(taker, "dvc pull")
        assert (taker / "data/cifar-10-python.tar.gz").read_bytes() == archive
        assert (taker / BASE).read_bytes() == (project / BASE).read_bytes()
        assert "Nothing to be done" in run(taker, "snakemake --cores 2 --config scale=tiny")
        assert "Stage 'reproduce' didn't change, skipping" in run(taker, "dvc repro")
    finally:
        server.stop()
