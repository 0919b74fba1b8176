"""The paper scale plans, and finds itself up to date, in under ten seconds and a gigabyte each.

In a copy of the last commit: a dry run with no results at all; then every output is made as an empty file and recorded
by `snakemake --touch`; then a dry run that must find nothing to be done. Seconds and peak memory are those of the whole
process, Python's start included. `--touch` itself takes a minute or two and is not measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import Contestant, Finding, machine, parser, progress, report

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS, LIMIT_MB = 10, 1000
CONFIG = ("--config", "scale=paper")
BETWEEN = """
import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\nused {used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(ended)
"""


@dataclass
class Measured:
    """Dry runs of one kind: seconds and peak megabytes, one each a round."""

    name: str
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)


def snakemake(project: Path, *arguments: str) -> tuple[str, float, float]:
    """What it printed, its seconds, its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        # In between stands a process without torch: Linux counts a parent's memory as the peak of what it starts.
        command = [sys.executable, "-c", BETWEEN, sys.executable, "-m", "snakemake", *arguments, *CONFIG]
        process = subprocess.run(command, cwd=project, stdout=said, stderr=subprocess.STDOUT)
        seconds = time.perf_counter() - started
        said.seek(0)
        text, _, used = said.read().rpartition("\nused ")
    if process.returncode:
        sys.exit(f"snakemake {' '.join(arguments)} failed:\n{text[-3000:]}")
    busy, kilobytes = map(float, used.split())
    progress(f"snakemake {' '.join(arguments)}: {seconds:.1f} s, of which {busy:.1f} s on a processor")
    return text, seconds, kilobytes / 1024


def dry_run(project: Path, into: Measured, rounds: int) -> str:
    """Measure; returns what the last one printed."""
    for number in range(rounds):
        text, seconds, megabytes = snakemake(project, "-n")
        into.seconds.append(seconds)
        into.megabytes.append(megabytes)
        progress(f"round {number + 1} of {rounds}: {into.name}: {seconds:.1f} s, {megabytes:.0f} MB")
    return text


def make_outputs(project: Path) -> int:
    """Every output of the graph as an empty file with a record; how many."""
    text, _, _ = snakemake(project, "--summary")
    lines = text[text.index("output_file\t") :].splitlines()[1:]
    outputs = [Path(project, line.split("\t")[0]) for line in lines if line]
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    progress(f"{len(outputs)} outputs made; recording them")
    snakemake(project, "--touch", "--cores", "all")
    return len(outputs)


def main(options: argparse.Namespace) -> None:
    """Measure both dry runs and report."""
    about = machine()
    cold, warm = Measured("nothing there"), Measured("everything up to date")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x"], cwd=project, check=True, input=archive)
        planned = dry_run(project, cold, options.rounds)
        jobs = next(int(line.split()[1]) for line in reversed(planned.splitlines()) if line.startswith("total "))
        outputs = make_outputs(project)
        if "Nothing to be done" not in dry_run(project, warm, options.rounds):
            sys.exit("With every output present the dry run still found work to do.")
    contestants, findings = [], []
    for one in (cold, warm):
        kept = Contestant(one.name, "1", jobs, "jobs", run=float)
        kept.seconds = one.seconds
        contestants.append(kept)
        findings += [
            Finding(f"{one.name}: seconds", one.seconds, "s"),
            Finding(f"{one.name}: peak memory", one.megabytes, "MB"),
        ]
    report(
        "planning", __doc__, options, about, contestants, findings,
        notes=[f"{jobs} jobs, {outputs} outputs; the limits are {LIMIT_SECONDS} s and {LIMIT_MB} MB"],
    )  # fmt: skip
    if max(cold.seconds + warm.seconds) > LIMIT_SECONDS or max(cold.megabytes + warm.megabytes) > LIMIT_MB:
        sys.exit("over the limit")


if __name__ == "__main__":
    main(parser(__doc__, rounds=3).parse_args())
