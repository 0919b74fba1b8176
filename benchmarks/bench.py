"""What the benchmarks share: contestants that take turns, ratios within one round, and the report.

A speed measured today cannot be compared with one measured tomorrow, so every benchmark runs its contestants in turn
(A B A B …) in one run and reports the median of the ratios within each round: a drift of the machine hits both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision


@dataclass
class Contestant:
    """One side of a contest.

    name: unique within a benchmark. threads: as text, since "2 x 1" and "2" are not the same. work: units done in one
    round. unit: what is counted, per second in the report. run: does one round and returns its seconds.
    """

    name: str
    threads: str
    work: float
    unit: str
    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Units a second, one number a round."""
        return [self.work / seconds for seconds in self.seconds]


@dataclass
class Finding:
    """One number a benchmark is for: `values` holds one a round. unit: `x` (a ratio), `share` (of 1), or a speed."""

    name: str
    values: list[float]
    unit: str = "x"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, value: float) -> str:
        """`value` as a reader wants it."""
        places = 0 if value >= 100 else 1
        return {"x": f"{value:.2f}x", "share": f"{value:.1%}"}.get(self.unit, f"{value:,.{places}f} {self.unit}")


def say(line: str = "") -> None:
    """Write one line of the report to stdout."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def progress(line: str) -> None:
    """Write one line to stderr, where it does not disturb a report that is piped into a file."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def parser(claim: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; `claim` is the script's header and becomes the text of --help."""
    made = argparse.ArgumentParser(description=claim, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--rounds", type=positive, default=rounds, help="times each contestant runs (default: %(default)s)"
    )
    made.add_argument("--json", type=Path, metavar="PATH", help="also write every measured second there")
    made.add_argument("--markdown", action="store_true", help="print rows for README.md instead of the text report")
    return made


def positive(text: str) -> int:
    """An option's value that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(action: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that `action` takes, with the work it queued on a card."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(contestants: Sequence[Contestant], rounds: int) -> None:
    """Let the contestants run in turn, `rounds` times, and keep their seconds; warming up is left to the caller."""
    for number in range(rounds):
        for contestant in contestants:
            contestant.seconds.append(contestant.run())
            progress(
                f"round {number + 1} of {rounds}: {contestant.name}: "
                f"{contestant.rates[-1]:,.0f} {contestant.unit}/s in {contestant.seconds[-1]:.2f} s"
            )


def ratio(name: str, ours: Contestant, other: Contestant) -> Finding:
    """How many times as fast `ours` was as `other`, within each round."""
    return Finding(name, [a / b for a, b in zip(ours.rates, other.rates, strict=True)])


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a reader must know to believe a speed; `load` is the machine's load average when the benchmark began."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(
    name: str,
    claim: str,
    options: argparse.Namespace,
    about: Mapping[str, Any],
    contestants: Sequence[Contestant],
    findings: Sequence[Finding],
    *,
    notes: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Print the result and, with --json, write it.

    claim: the script's header; its first line is kept. about: what `machine` said before the first round.
    findings: what to quote, each with one value a round. notes: what a reader must know beside the numbers.
    facts: what else the JSON shall hold.
    """
    notes = list(notes)
    if about["load"] is not None and about["load"] > 0.5 * about["cores"]:
        notes.append(
            f"the machine was not quiet: its load was {about['load']} on {about['cores']} cores when this began; "
            "speeds are too low, ratios may be off"
        )
    where = (
        f"{about['cpu']}, {about['cores']} cores, {about['instructions']}"
        f"{'' if about['device'] == 'cpu' else ', ' + about['device']}, torch {about['torch']}, "
        f"python {about['python']}"
    )
    if options.markdown:
        _markdown(contestants, findings, notes, where)
    else:
        _text(name, contestants, findings, notes, where)
    if options.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        written = {
            "benchmark": name,
            "claim": claim.strip().splitlines()[0],
            "machine": dict(about),
            "settings": {key: value for key, value in settings.items() if key not in ("json", "markdown")},
            "contestants": [_timing(contestant) for contestant in contestants],
            "findings": [
                {**asdict(finding), "median": finding.median, "min": min(finding.values), "max": max(finding.values)}
                for finding in findings
            ],
            "notes": notes,
            **(facts or {}),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        temporary = options.json.with_name(f"{options.json.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(written, indent=2) + "\n")
        os.replace(temporary, options.json)


def _timing(contestant: Contestant) -> dict[str, Any]:
    """A contestant as JSON holds it; the best rate belongs to the least seconds."""
    return {
        "name": contestant.name,
        "threads": contestant.threads,
        "unit": contestant.unit,
        "work_per_round": contestant.work,
        "repetitions": len(contestant.seconds),
        "seconds": contestant.seconds,
        "seconds_min": min(contestant.seconds),
        "seconds_median": statistics.median(contestant.seconds),
        "per_second_median": statistics.median(contestant.rates),
        "per_second_max": max(contestant.rates),
    }


def _text(
    name: str, contestants: Sequence[Contestant], findings: Sequence[Finding], notes: Sequence[str], where: str
) -> None:
    say(f"{name}: {where}")
    say()
    wide = max(len(one.name) for one in contestants)
    say(f"{'contestant':{wide}}  threads  rounds   median s      min s    a second (median)")
    for one in contestants:
        say(
            f"{one.name:{wide}}  {one.threads:>7}  {len(one.seconds):6d}  {statistics.median(one.seconds):9.3f}  "
            f"{min(one.seconds):9.3f}  {statistics.median(one.rates):12,.0f} {one.unit}"
        )
    say()
    wide = max(len(finding.name) for finding in findings)
    for finding in findings:
        low, high = finding.text(min(finding.values)), finding.text(max(finding.values))
        say(f"{finding.name:{wide}}  {finding.text(finding.median):>14}   ({low} to {high} over the rounds)")
    for note in notes:
        say(f"note: {note}")


def _markdown(contestants: Sequence[Contestant], findings: Sequence[Finding], notes: Sequence[str], where: str) -> None:
    say("| measured | median | least to most over the rounds | rounds |")
    say("|---|---:|---:|---:|")
    for finding in findings:
        low, high = finding.text(min(finding.values)), finding.text(max(finding.values))
        say(f"| {finding.name} | {finding.text(finding.median)} | {low} to {high} | {len(finding.values)} |")
    for one in contestants:
        speed = Finding(one.name, one.rates, f"{one.unit}/s")
        low, high = speed.text(min(one.rates)), speed.text(max(one.rates))
        say(f"| {one.name}, threads {one.threads} | {speed.text(speed.median)} | {low} to {high} | {len(one.rates)} |")
    say()
    say(f"{where}." + "".join(f" Note: {note}." for note in notes))
