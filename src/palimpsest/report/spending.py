"""The plan as a person reads it: what is left to run, what it costs, and what each figure rests on."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from palimpsest.pipeline.estimate import BASES, Amount, Costs
from palimpsest.pipeline.plan import Job, critical_path
from palimpsest.report.formats import grid

HOUR = 3600.0
NOTES = """
measured: this very job's record. scaled: computed from records of other jobs, scales or devices. guess: a number of the
configuration's section `plan`, or what follows from one. Shares are of the hours. On a number of machines no run can
end before its longest chain nor before its hours are shared out; greedy scheduling needs less than twice as long.
Starting a job (seconds) and waiting in a cluster's queue are not counted.
"""


def markdown(jobs: Sequence[Job], costs: Costs) -> str:
    """Return the plan of `jobs` as text that reads well in a terminal."""
    seconds = {job.id: costs.seconds(job) for job in jobs}
    left = [job for job in jobs if not job.done]
    plain = {job.id: seconds[job.id].value for job in left}
    length, path = critical_path(left, plain)
    cards = any(job.gpus for job in jobs)
    what, unit = ("gpus", "GPU") if cards else ("threads", "core")
    beside = costs.stated["cores_per_gpu"] if cards else 1

    def held(chosen: Iterable[Job], what: str) -> list[str]:
        """Return the hours of cards or cores that these jobs hold, and what they rest on."""
        return _figure(Amount(getattr(job, what) * seconds[job.id].value, seconds[job.id].basis) for job in chosen)

    figures = [["GPU hours", *held(left, "gpus")], ["CPU hours (cores held)", *held(left, "threads")]]
    figures.append(["critical path, hours", *_figure(seconds[number] for number in path)])
    work = held(left, what)[1:]
    for count in costs.stated["machines"]:
        where = f"{count} {unit}{'s' * (count > 1)}" + (f" and {count * beside} cores" if cards else "")
        hours = max(length, sum(getattr(job, what) * plain[job.id] for job in left) / count) / HOUR
        figures.append([f"hours on {where}, no less than", _number(hours), *work])
    if len(left) < len(jobs):
        figures.append([f"done already: {unit} hours", *held((job for job in jobs if job.done), what)])
    every, waiting = Counter(job.rule for job in jobs), Counter(job.rule for job in left)
    of_rule = {rule: [job for job in left if job.rule == rule] for rule in every}
    longest = sorted(every, key=lambda rule: -sum(plain[job.id] for job in of_rule[rule]))
    rules = [[rule, str(every[rule]), str(waiting[rule]), *held(of_rule[rule], what)] for rule in longest]
    by_id = {job.id: job for job in left}
    chain = [
        f"{_number(plain[n] / HOUR)} h, {seconds[n].basis}: {' '.join([by_id[n].rule, *by_id[n].cell.values()])}"
        for n in path
        if plain[n]
    ]
    wrap = textwrap.TextWrapper(100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n\n".join(
        [
            f"# Plan: scale {costs.config['scale']}, target {costs.stated['target']}",
            f"{len(jobs):,} jobs: {len(jobs) - len(left):,} done, {len(left):,} to run.",
            grid([["to run", "", *BASES], *figures]),
            grid([["rule", "jobs", "to run", f"{unit} h", *BASES], *rules]),
            "\n".join(["The critical path:", "", *map(wrap.fill, chain)]) if chain else "Nothing is left to run.",
            textwrap.fill(NOTES.strip(), 100) + "\n",
        ]
    )


def tidy(jobs: Sequence[Job], costs: Costs) -> str:
    """Return CSV with a line for each job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rule", "cell", "state", "seconds", "basis", "gpus", "threads"])
    for job in jobs:
        taken = costs.seconds(job)
        state, cell = "done" if job.done else "to run", "/".join(job.cell.values())
        writer.writerow([job.rule, cell, state, round(taken.value, 1), taken.basis, job.gpus, job.threads])
    return text.getvalue()


def _figure(amounts: Iterable[Amount]) -> list[str]:
    """Return a sum of seconds in hours, and the share that each basis has in it, as text."""
    parts = dict.fromkeys(BASES, 0.0)
    for amount in amounts:
        parts[amount.basis] += amount.value
    total = sum(parts.values())
    return [_number(total / HOUR), *(_share(part / total if total else 0.0) for part in parts.values())]


def _share(part: float) -> str:
    """Return a percentage; a share that is not zero never shows as none, and one that is not all never as all."""
    return "-" if not part else "<1%" if part < 0.01 else ">99%" if 0.99 < part < 1 else f"{100 * part:.0f}%"


def _number(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
