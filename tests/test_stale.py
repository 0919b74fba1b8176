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
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from test_crash import assert_nothing_is_half_written, tables
from test_workflow import copied, only, snakemake

TRIALS = int(os.environ.get("PALIMPSEST_TRIALS", "10"))  # in CI; 100 outside
KEPT = {"uma": ["table4", "purification"], "leakage": ["table3"]}
# What is changed: each is one value of the configuration, of another stage each.
VALUES: list[dict[str, Any]] = [
    {},
    {"recipes": {"small_cnn_narrow": {"lr": 1.0e-3}}},
    {"unlearners": {"random_label": {"momentum": 0.5}}},
    {"attacks": {"uma": {"images": "unseen"}}},
    {"defenses": {"jpeg": {"quality": 30}}},
    {"defenses": {"denoiser": {"lr": 0.1}}},
    {"requests": {"class_0": {"classes": [1]}}},
]


def three_tables(project: Path) -> Path:
    """The project with three tables, and without any other table, figure or claim."""
    return only(copied(project), KEPT)


def start(project: Path, value: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A run with one value changed."""
    overrides = project / "value.yaml"
    overrides.write_text(yaml.safe_dump({"scale": "tiny", **value}))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(overrides)]
    command += ["--config", "scale=tiny"]
    with (project / "said").open("wb") as said:
        return subprocess.Popen(command, cwd=project, start_new_session=True, stdout=said, stderr=subprocess.STDOUT)


def finish(project: Path, value: dict[str, Any]) -> None:
    """A run with one value changed, to its end."""
    assert start(project, value).wait() == 0, (project / "said").read_text()[-5000:]


def job(run: subprocess.Popen[bytes], number: int) -> psutil.Process | None:
    """The process of a run's job, the so many-th that is seen to start; None where the run ends before."""
    seen: dict[int, psutil.Process] = {}
    while run.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(run.pid).children(True):
                if one.pid not in seen and ".snakemake/scripts" in " ".join(one.cmdline()):
                    seen[one.pid] = one
                    if len(seen) == number:
                        return one
        time.sleep(0.01)
    return None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished project with three tables."""
    made = three_tables(tmp_path_factory.mktemp("stale"))
    finish(made, {})
    return made


@pytest.mark.long
def test_whatever_was_changed_and_whatever_failed_the_tables_are_those_of_a_clean_run(
    project: Path, tmp_path: Path
) -> None:
    @cache
    def clean(number: int) -> dict[str, bytes]:
        fresh = three_tables(tmp_path / f"clean{number}")
        finish(fresh, VALUES[number])
        return tables(fresh, "tiny")

    chance = random.Random(int(os.environ.get("PALIMPSEST_CHANCE", "0")))
    drawn: dict[int, dict[str, bytes]] = {}
    for trial in range(TRIALS):
        number = chance.randrange(len(VALUES))
        run = start(project, VALUES[number])
        victim = job(run, chance.randint(1, 12))
        time.sleep(chance.uniform(0, 0.5))
        if chance.random() < 0.5:
            if victim:
                with contextlib.suppress(psutil.Error):
                    victim.kill()
            run.wait()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            snakemake(project, "--unlock")
        assert_nothing_is_half_written(project / "results" / "tiny")
        finish(project, VALUES[number])
        drawn[number] = clean(number)
        assert tables(project, "tiny") == drawn[number], f"trial {trial}"
    assert all(drawn[i] != drawn[j] for i in drawn for j in drawn if i < j), "each value changes some table"


@pytest.mark.parametrize(
    "file",
    [
        "unlearners/random_label.py",
        *(
            pytest.param(file, marks=pytest.mark.long)
            for file in (
                "data/digits.py",
                "models/small_cnn.py",
                "requests/classes.py",
                "attacks/on_images/uma.py",
                "defenses/denoiser.py",
                "predict.py",
                "metrics/accuracy.py",
                "report/tables.py",
            )
        ),
    ],
)
def test_code_that_fails_fails_again_and_leaves_no_old_number_as_its_own(project: Path, file: str) -> None:
    finish(project, {})
    before = tables(project, "tiny")
    broken = project / "src/palimpsest" / file
    text = broken.read_text()
    broken.write_text(text + "\nraise RuntimeError('new code that fails')\n")
    try:
        for _ in range(2):
            assert start(project, {}).wait() != 0, "it fails, and fails again"
            assert "Nothing to be done" not in (project / "said").read_text()
            assert "new code that fails" in (project / "said").read_text()
    finally:
        broken.write_text(text)
    finish(project, {})
    assert tables(project, "tiny") == before
    finish(project, {})
    assert "Nothing to be done" in (project / "said").read_text()
