"""Cards: who gets which, on a machine with four that are pretended, since a lease is about names and locks alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMI = """#!/bin/sh
for index in 0 1 2 3; do echo "$index, GPU-$index-uuid"; done
"""
HOLD = """
import sys, time
from palimpsest.pipeline import gpu
cards = gpu.lease(int(sys.argv[1]), int(sys.argv[2]))
print(",".join(cards), flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with four cards."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    path = f"{smi.parent}:{environment['PATH']}"
    return {**environment, "PATH": path, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}


def hold(machine: dict[str, str], count: int = 1, places: int = 1, seconds: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(count), str(places), str(seconds)]
    return subprocess.Popen(command, env=machine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cards(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    return line.split(",") if line else []


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_jobs_hold_different_cards_and_a_killed_one_gives_its_back(machine: dict[str, str]) -> None:
    holders = [hold(machine) for _ in range(4)]
    held = [cards(holder) for holder in holders]
    assert sorted(held) == [[f"GPU-{index}-uuid"] for index in range(4)]
    waiting = hold(machine)
    time.sleep(1)
    assert waiting.poll() is None
    holders[2].send_signal(signal.SIGKILL)
    assert cards(waiting) == held[2]
    end(waiting, *holders)


def test_a_preset_pool_is_kept_to_and_its_numbers_are_the_machines_cards(machine: dict[str, str]) -> None:
    whole = [hold(machine) for _ in range(3)]
    taken = {card for holder in whole for (card,) in [cards(holder)]}
    free = ({f"GPU-{index}-uuid" for index in range(4)} - taken).pop()[4]
    pool = hold({**machine, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})  # other names for the same four
    assert cards(pool) == [free]
    end(pool, *whole)
    named = [hold({**machine, "CUDA_VISIBLE_DEVICES": "2,3"}) for _ in range(2)]
    assert sorted(cards(holder) for holder in named) == [["2"], ["3"]]
    end(*named)


def test_what_a_job_was_given_alone_is_not_locked(machine: dict[str, str]) -> None:
    """Two SLURM jobs each see their card as number 0; two Snakemakes with one card between them take turns."""
    both = [hold({**machine, "CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": str(job)}) for job in (7, 8)]
    assert [cards(holder) for holder in both] == [["0"], ["0"]]
    end(*both)
    one = hold({**machine, "CUDA_VISIBLE_DEVICES": "0"})
    assert cards(one) == ["0"]
    other = hold({**machine, "CUDA_VISIBLE_DEVICES": "0"})
    time.sleep(1)
    assert other.poll() is None
    end(one)
    assert cards(other) == ["0"]
    end(other)


def test_two_cards_at_once_never_leave_two_jobs_with_half_each(machine: dict[str, str]) -> None:
    pairs = [hold(machine, count=2, seconds=0.5) for _ in range(6)]
    held = [cards(pair) for pair in pairs]
    assert all(len(set(pair)) == 2 for pair in held)
    end(*pairs)


def test_places_on_a_card_are_filled_evenly_and_a_job_alone_waits_for_the_whole_card(machine: dict[str, str]) -> None:
    two = {**machine, "CUDA_VISIBLE_DEVICES": "0,1"}
    sharers = []
    held = []
    for _ in range(4):
        sharers.append(hold(two, places=2))
        held += cards(sharers[-1])
    assert sorted(held[:2]) == sorted(held[2:]) == ["0", "1"]
    alone = hold(two)
    time.sleep(1)
    assert alone.poll() is None
    first = held[0]
    end(*(sharer for sharer, card in zip(sharers, held, strict=True) if card == first))
    assert cards(alone) == [first]
    end(alone, *sharers)


def test_no_card_asked_for_or_none_there_is_the_cpu(machine: dict[str, str], tmp_path: Path) -> None:
    assert cards(hold(machine, count=0, seconds=0)) == []
    empty = {**machine, "PATH": str(tmp_path / "bin")}
    (tmp_path / "bin" / "nvidia-smi").unlink()
    assert cards(hold(empty, count=1, seconds=0)) == []


def test_a_driver_that_does_not_answer_is_no_reason_to_use_the_cpu(machine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    _, said = hold(machine, seconds=0).communicate()
    assert "nvidia-smi is here and does not answer" in said


def test_more_cards_than_there_are_is_refused_in_a_sentence(machine: dict[str, str]) -> None:
    _, said = hold(machine, count=5, seconds=0).communicate()
    assert "asks for 5 cards and sees 4" in said


SNAKEFILE = """
import sys
rule all:
    input: [f"{config['name']}-{i}.json" for i in range(6)]
rule train:
    output: "{name}-{i}.json"
    resources: gpu=1
    shell: "{sys.executable} job.py {output}"
"""
JOB = """
import json, sys, time
from palimpsest.pipeline import gpu
asked = time.time()
card, = gpu.lease(1)
started = time.time()
time.sleep(4)
json.dump({"card": card, "asked": asked, "from": started, "to": time.time()}, open(sys.argv[1], "w"))
"""


def test_two_snakemakes_fill_four_cards_with_twelve_jobs(machine: dict[str, str], tmp_path: Path) -> None:
    """No two jobs on one card at a time, and no card idle for long while a job waits for one."""
    both = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "job.py").write_text(JOB)
        command = [sys.executable, "-m", "snakemake", "--cores=4", "--resources", "gpu=4", "--config", f"name={name}"]
        quiet = subprocess.DEVNULL
        both.append(subprocess.Popen(command, cwd=folder, env=machine, stdout=quiet, stderr=quiet))
    assert [process.wait(timeout=180) for process in both] == [0, 0]
    done = [json.loads(file.read_text()) for file in tmp_path.glob("o*/*.json")]
    assert len(done) == 12
    by_card: dict[str, list[dict[str, float]]] = {}
    for job in done:
        by_card.setdefault(job["card"], []).append(job)
    assert sorted(by_card) == [f"GPU-{index}-uuid" for index in range(4)]
    for jobs in by_card.values():
        jobs.sort(key=lambda job: job["from"])
        for before, after in pairwise(jobs):
            assert before["to"] <= after["from"]
    for job in done:
        for jobs in by_card.values():
            waited = job["from"] - job["asked"]
            taken = sum(
                max(0.0, min(other["to"], job["from"]) - max(other["from"], job["asked"]))
                for other in jobs
                if other is not job
            )
            assert waited - taken < 3, "a card was free while this job waited for one"
