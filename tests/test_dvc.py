"""DVC beside Snakemake, by the project's own dvc.yaml: results travel, are whole when they arrive, and are not redone."""

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


def clone(project: Path, place: Path) -> Path:
    """A fresh clone of what `project` has committed, in the new folder `place`."""
    place.mkdir()
    run(place, f"git clone --quiet {project} clone")
    return place / "clone"


def in_store(store: Path, file: Path) -> Path:
    """Where a DVC remote keeps the bytes of `file`."""
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    return store / "files" / "md5" / md5[:2] / md5[2:]


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


@pytest.fixture(scope="module")
def colleague(project: Path) -> Path:
    """A clone elsewhere that has pulled from the same store."""
    folder = project.parent / "colleague"
    run(project.parent, f"git clone --quiet {project} {folder}")
    run(folder, "dvc pull")
    return folder


def test_a_clone_that_pulls_has_nothing_to_do(project: Path, colleague: Path) -> None:
    assert (colleague / BASE).read_bytes() == (project / BASE).read_bytes()
    for folder in (project, colleague):
        assert "Nothing to be done" in run(folder, "snakemake --cores 2 --config scale=tiny")
        assert "Stage 'reproduce' didn't change, skipping" in run(folder, "dvc repro")
        assert "up to date" in run(folder, "dvc status")
        assert run(folder, "git status --short") == "", "DVC writes only what git ignores or has"
