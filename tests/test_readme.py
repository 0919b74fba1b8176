"""The README's commands: each is run here as a dry run or for real, or is named with the test that runs it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import ROOT, copied

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if re.match(r"(snakemake|dvc|git|make|python|PYTHONPATH=src python) ?", line)
]
# Those that a dry run says nothing of, and where they run.
ELSEWHERE = {
    "git clone … && cd palimpsest": ".ci/run begins in a clone",
    "make demo": ".ci/run",
    "python benchmarks/gpu.py --data data --dataset cifar10 --model resnet18": "test_benchmarks.py, on the digits",
    "make test": ".ci/run, within make test-all",
    "make test-all": ".ci/run",
    "snakemake --report report.zip": "test_workflow.py",
    "snakemake --unlock": "test_crash.py",
    "snakemake --workflow-profile profiles/slurm --config scale=paper --profile mine": "test_slurm.py",
}
DRY = [one for one in dict.fromkeys(COMMANDS) if one.startswith("snakemake") and one not in ELSEWHERE]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("command", DRY)
def test_a_command_for_snakemake_plans(command: str, project: Path) -> None:
    words = [sys.executable, "-m", *shlex.split(command), "-n"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Job stats" in said, said[-3000:]


def test_a_result_of_the_repository_is_traced_as_the_readme_says() -> None:
    (command,) = [one for one in COMMANDS if one.startswith("PYTHONPATH=src python")]
    words = [sys.executable, *shlex.split(command)[2:]]
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "data/cifar-10-batches-py/data_batch_1" in done.stdout, "the raw files, whether they are here or not"
    assert "changed since" not in done.stdout


def test_every_other_command_is_run_by_a_test_that_is_named() -> None:
    dvc = (ROOT / "tests" / "test_dvc.py").read_text()
    for command in COMMANDS:
        if command.startswith("dvc"):
            wanted = [word for word in shlex.split(command)[1:] if "/" not in word and "…" not in word]
            assert all(f'"{word}"' in dvc or f" {word}" in dvc for word in wanted), command
        elif not command.startswith(("snakemake", "PYTHONPATH")):
            assert command in ELSEWHERE or command.startswith("git add dvc.lock"), command
    assert set(ELSEWHERE) <= set(COMMANDS), "a command that the README has no more"
