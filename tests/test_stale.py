"""Numbers that a configuration did not make never pass for its own: after any failure and any kill the next run mends.

A project of three small tables: a value is changed in finished results, a job of the next run is killed, or the whole
run; then it is run to its end. The tables are then those of a run that began with nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from test_crash import tables
from test_workflow import copied, snakemake

TRIALS = int(os.environ.get("PALIMPSEST_TRIALS", "10"))  # in CI; 100 outside, as README says
KEPT = {"uma": ["table4", "purification"], "leakage": ["table3"]}
# What is changed: each is one value of the configuration, of another stage each.
VALUES: list[dict[str, Any]] = [
    {},
    {"recipes": {"small_cnn_narrow": {"lr": 1.0e-3}}},
    {"unlearners": {"random_label": {"lr": 2.0e-3}}},
    {"attacks": {"uma": {"relative_step": 1.0}}},
    {"defenses": {"jpeg": {"quality": 30}}},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with three tables."""
    made = copied(tmp_path_factory.mktemp("stale"))
    only(made, KEPT)
    return made


def only(project: Path, kept: dict[str, list[str]]) -> None:
    """Take all other tables and figures, and the claims, out of the papers."""
    for folder in (project / "config" / "papers").iterdir():
        about = yaml.safe_load((folder / "paper.yaml").read_text())
        about["tables"] = {name: about["tables"][name] for name in kept[folder.name]}
        about |= {"figures": {}, "claims": []}
        (folder / "paper.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


def start(project: Path, value: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A run with one value changed."""
    overrides = project / "value.yaml"
    overrides.write_text(yaml.safe_dump({"scale": "tiny", **value}))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "2",
        "--configfile",
        str(overrides),
        "--config",
        "scale=tiny",
    ]
    return subprocess.Popen(command, cwd=project, start_new_session=True, stdout=-3, stderr=subprocess.STDOUT)


def kill_a_job(run: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Kill one of the jobs' processes, the next one that appears after a moment of chance."""
    time.sleep(chance.uniform(2, 8))
    while run.poll() is None:
        with contextlib.suppress(psutil.Error):
            jobs = [
                one for one in psutil.Process(run.pid).children(True) if ".snakemake/scripts" in " ".join(one.cmdline())
            ]
            if jobs:
                chance.choice(jobs).kill()
                return
        time.sleep(0.01)


@pytest.mark.long
def test_whatever_was_changed_and_whatever_failed_the_tables_are_those_of_a_clean_run(
    project: Path, tmp_path: Path
) -> None:
    clean: list[dict[str, bytes]] = []
    for number, value in enumerate(VALUES):
        fresh = copied(tmp_path / f"clean{number}")
        only(fresh, KEPT)
        assert start(fresh, value).wait() == 0
        clean.append(tables(fresh, "tiny"))
    assert all(one != other for one in clean for other in clean if one is not other), "each value changes some table"
    assert start(project, {}).wait() == 0
    chance = random.Random(0)
    for _ in range(TRIALS):
        number = chance.randrange(len(VALUES))
        run = start(project, VALUES[number])
        if chance.random() < 0.5:
            kill_a_job(run, chance)
            run.wait()
        else:
            time.sleep(chance.uniform(2, 12))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            snakemake(project, "--unlock")
        assert start(project, VALUES[number]).wait() == 0
        assert tables(project, "tiny") == clean[number]


def test_a_value_that_makes_a_job_fail_fails_again_and_leaves_no_old_number_as_its_own(project: Path) -> None:
    assert start(project, {}).wait() == 0
    salun = project / "src/palimpsest/unlearners/random_label.py"
    text = salun.read_text()
    salun.write_text(text + "\nraise RuntimeError('new code that fails')\n")
    try:
        for _ in range(2):
            assert start(project, {}).wait() != 0, "it fails, and fails again"
    finally:
        salun.write_text(text)
    before = tables(project, "tiny")
    assert start(project, {}).wait() == 0
    assert tables(project, "tiny") == before
    assert "Nothing to be done" in snakemake(project)
