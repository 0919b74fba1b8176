"""What a run says of itself with our logger: few lines, failures in full, the count last.

The workflow is a tiny one of its own: forty jobs, one of which fails and says why in its log.
"""

import contextlib
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOBS = 40
SENTENCE = "ValueError: the ratio is 5.0 and must be at most 1 [seen in class 7]"
SNAKEFILE = f"""
rule all:
    input: expand("{{i}}.txt", i=range({JOBS}))

rule one:
    output: "{{i}}.txt"
    log: "{{i}}.log"
    shell: "if [ {{wildcards.i}} = 7 ]; then echo '{SENTENCE}' > {{log}}; exit 1; fi; touch {{output}}"

rule slow:
    output: "slow.txt"
    shell: "sleep 3; echo THE RESULT; touch {{output}}"
"""
# Snakemake as its own command starts it, with a line every so many seconds instead of every minute.
SNAKEMAKE = "import snakemake_logger_plugin_palimpsest as p; p.LINE_EVERY = {}; import snakemake.cli as c; c.main()"
SOURCE = str(Path(__file__).parents[1] / "src")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def command(*arguments: str, every: float = 60) -> list[str]:
    return [sys.executable, "-c", SNAKEMAKE.format(every), "--logger", "palimpsest", "--cores", "2", *arguments]


def run(folder: Path, *arguments: str, every: float = 60, ends: int = 0) -> subprocess.CompletedProcess[str]:
    """`snakemake --logger palimpsest` on a pipe."""
    # A CI service sets FORCE_COLOR, with which a pipe must not be taken for a terminal.
    machine = {**os.environ, "PYTHONPATH": SOURCE, "FORCE_COLOR": "1"}
    done = subprocess.run(command(*arguments, every=every), cwd=folder, env=machine, capture_output=True, text=True)
    assert done.returncode == ends, done.stderr
    return done


def test_on_a_pipe_a_run_is_a_few_lines_a_failure_in_full_and_the_count(folder: Path) -> None:
    done = run(folder, "--keep-going", "--show-failed-logs", "--nocolor", ends=1)
    assert done.stderr.count("\n") < 35, "Snakemake alone prints ten lines a job"
    assert done.stderr.count(SENTENCE) >= 2, "the failed job's log, beside the command that has the sentence too"
    assert f"\n{SENTENCE}\n" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{JOBS - 1} of {JOBS + 1} jobs done, 1 failed, 0:")
    [whole] = (folder / ".snakemake/log").iterdir()
    assert whole.read_text().count("Finished jobid") == JOBS - 1, "the file has every job"
    assert str(whole) in done.stderr


def test_on_a_pipe_it_says_from_time_to_time_what_runs(folder: Path) -> None:
    began = time.monotonic()
    done = run(folder, "slow.txt", "--nocolor", every=0.5)
    took = time.monotonic() - began
    told = [line for line in done.stderr.splitlines() if line.startswith("0 of 1 jobs done, 0:0")]
    assert 2 <= len(told) <= took / 0.5, "no more often than it was told to"
    assert "; now: slow (0:0" in told[-1]
    assert done.stdout == "THE RESULT\n", "what a job writes to stdout, as `plan` does, is left alone"


def test_nothing_to_be_done_is_said_and_nothing_counted(folder: Path) -> None:
    (folder / "slow.txt").touch()
    done = run(folder, "slow.txt", "--rerun-triggers", "mtime")
    assert "Nothing to be done" in done.stderr
    assert "jobs done" not in done.stderr


def test_a_dry_run_lists_its_jobs_on_stdout(folder: Path) -> None:
    done = run(folder, "--dry-run")
    assert done.stdout.count("rule one:") == JOBS
    assert "jobs done" not in done.stdout + done.stderr


def test_on_a_terminal_the_count_is_redrawn_and_failures_stay(folder: Path) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command("--keep-going", "--show-failed-logs"), cwd=folder, stdout=theirs, stderr=theirs,
        env={**os.environ, "PYTHONPATH": SOURCE, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert running.wait() == 1
    text = shown.decode()
    assert SENTENCE in text
    assert "\x1b[1A\x1b[2K" in text, "it goes one line up and clears it"
    assert f"{JOBS - 1} of {JOBS + 1} jobs done, 1 failed" in text.rstrip().splitlines()[-1]
