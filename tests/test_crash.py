"""Power lost, disk full: nothing half-written is ever read, and the end is the same to the byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from test_workflow import ROOT, copied, snakemake

from palimpsest.pipeline import provenance

KILLS = 20
TABLES = ("*.csv", "*.md", "*.tex", "*.html")


def tables(project: Path, scale: str) -> dict[str, bytes]:
    """The tables and the numbers of the figures, without seconds, which are never the same.

    The pages hold seconds; of a table with seconds among its cells only the other lines of its CSV count.
    """
    folder = project / "results" / scale / "papers"
    files = [file for pattern in TABLES for file in folder.glob(f"*/{pattern}") if file.name != "index.html"]
    found = {}
    for file in files:
        every = file.with_suffix(".csv").read_bytes().splitlines(keepends=True)
        same = [line for line in every if b"_seconds" not in line]
        if same == every or file.suffix == ".csv":
            found[str(file.relative_to(folder))] = file.read_bytes() if same == every else b"".join(same)
    return found


def assert_nothing_is_half_written(results: Path) -> None:
    """Whatever lies under a final name is whole, and is what its record says."""
    for file in results.rglob("*.safetensors"):
        with safe_open(str(file), framework="pt") as content:
            for name in content.keys():
                content.get_tensor(name)
    for file in results.rglob("*.jsonl"):
        assert all(json.loads(line) for line in file.read_text().splitlines())
    for file in results.rglob("*.json"):
        content = json.loads(file.read_text())
        for name, digest in content.get("outputs", {}).items() if file.name.endswith(".record.json") else ():
            assert provenance.digest(results.parents[1] / name) == digest


def kill_again_and_again(project: Path, scale: str, target: str, longest: float) -> None:
    """Start the run `KILLS` times and kill all its processes at a moment of chance, then run it to its end."""
    chance = random.Random(0)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", target, "--config", f"scale={scale}"]
    environment = {**os.environ, "PALIMPSEST_CHECKPOINT_SECONDS": "0"}
    for _ in range(KILLS):
        running = subprocess.Popen(
            command, cwd=project, env=environment, start_new_session=True, stdout=-3, stderr=subprocess.STDOUT
        )
        time.sleep(chance.uniform(2, longest))
        assert running.poll() is None, "it ended before it was killed; lower `longest`"
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        snakemake(project, "--unlock", config=(f"scale={scale}",))
        assert_nothing_is_half_written(project / "results" / scale)
    snakemake(project, target, config=(f"scale={scale}",))


@pytest.mark.long
def test_twenty_kills_later_the_demos_tables_are_the_same_to_the_byte(tmp_path: Path) -> None:
    whole = ROOT  # `make demo` may have made them here, of this very code
    if "Nothing to be done" not in snakemake(whole, "-n", config=("scale=demo",)):
        whole = copied(tmp_path / "whole")
        snakemake(whole, "all", config=("scale=demo",))
    killed = copied(tmp_path / "killed")
    kill_again_and_again(killed, "demo", "all", longest=10)
    expected = tables(whole, "demo")
    assert len(expected) > 50 and tables(killed, "demo") == expected
    left = [file for file in (killed / "results").rglob("*") if ".tmp" in file.name or ".resume" in file.name]
    assert not left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A project whose results lie on a disk of one megabyte."""
    project = copied(tmp_path)
    results = project / "results"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(results)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield project
    subprocess.run(["umount", "-l", str(results)], check=True)


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(small_disk: Path) -> None:
    target = "results/tiny/base/digits/small_cnn_narrow/plain/100.safetensors"
    snakemake(small_disk, "results/tiny/data/digits.safetensors")
    other = ("scale=tiny", "data_root=elsewhere")  # the first to be written is the configuration itself
    ballast = small_disk / "results" / "ballast"
    free = os.statvfs(small_disk / "results")
    ballast.write_bytes(b"0" * (free.f_bavail * free.f_frsize - 8192))  # less than the network needs
    said = snakemake(small_disk, target, check=False)
    assert f"No space is left on the disk for {target}: free some and run again; nothing is lost." in said
    assert "Traceback" not in said
    assert_nothing_is_half_written(small_disk / "results" / "tiny")
    assert not (small_disk / target).exists() and not list((small_disk / "results").rglob("*.tmp"))
    with ballast.open("ab") as file, contextlib.suppress(OSError):
        file.write(b"0" * 8192)
    said = snakemake(small_disk, target, config=other, check=False)
    assert "results/tiny/config.yaml cannot be written (No space left on device)" in said and "rule train" not in said
    ballast.unlink()
    said = snakemake(small_disk, target)
    assert "rule data" not in said and (small_disk / target).exists()
