"""The plan as a person reads it: what is left to run, what that costs, what each figure rests on; text, CSV, a figure.

A share is of the figure's own unit: of hours for hours, of bytes for disk. A wall time has the shares of all the work
behind it, the critical path those of its jobs.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from palimpsest.pipeline.estimate import BASES, Amount, Costs
from palimpsest.pipeline.plan import Job, critical_path, wall
from palimpsest.report.figures import COLUMN, STYLE

COLOURS = {"measured": "#0072B2", "scaled": "#56B4E9", "guess": "#E69F00"}
HATCHES = {"measured": "", "scaled": "..", "guess": "//"}
HOUR, GB = 3600.0, 1e9
NOTES = """
measured: this very job's record. scaled: computed from records of other jobs, scales or devices, or
a file's size from its shape. guess: a number of the configuration's section `plan`, or what follows
from one. Shares are of the figure's unit. Wall times are of a simulated schedule by priority, the
cards all of one kind and one job on each; starting a job (seconds) and waiting in a cluster's queue
are not in it.
"""


def summary(jobs: Sequence[Job], costs: Costs) -> dict[str, Any]:
    """All figures of the plan of `jobs`, as JSON has them; hours, bytes, and shares of BASES that add up to 1."""
    seconds = {job.id: costs.seconds(job) for job in jobs}
    sizes = {job.id: costs.size(job) for job in jobs}
    left = [job for job in jobs if not job.done]
    plain = {job.id: seconds[job.id].value for job in left}
    length, path = critical_path(left, plain)
    by_id = {job.id: job for job in left}
    cards = any(job.gpus for job in jobs)
    beside = costs.stated["cores_per_gpu"] if cards else 1
    work = _hours(left, seconds, "gpus" if cards else "threads")

    def section(chosen: Sequence[Job]) -> dict[str, Any]:
        return {
            "jobs": len(chosen),
            "gpu_hours": _hours(chosen, seconds, "gpus"),
            "cpu_hours": _hours(chosen, seconds, "threads"),
            "bytes": _figure(size for job in chosen for size in sizes[job.id]),
        }

    return {
        "scale": costs.config["scale"],
        "target": costs.stated["target"],
        "machine": "card" if cards else "core",
        "jobs": len(jobs),
        "done": section([job for job in jobs if job.done]),
        "left": section(left),
        "rules": {
            rule: {
                "jobs": sum(job.rule == rule for job in jobs),
                "done": sum(job.rule == rule and job.done for job in jobs),
                "left": section([job for job in left if job.rule == rule]),
            }
            for rule in dict.fromkeys(job.rule for job in jobs)
        },
        "critical_path": {
            **_figure(Amount(seconds[number].value / HOUR, seconds[number].basis) for number in path),
            "value": length / HOUR,
            "jobs": [
                {"job": _name(by_id[n]), "hours": plain[n] / HOUR, "basis": seconds[n].basis} for n in path if plain[n]
            ],
        },
        "wall": [
            {
                "machines": number,
                "cores": number * beside,
                "value": wall(left, plain, number if cards else 0, number * beside) / HOUR,
                "at_least": max(length / HOUR, work["value"] / number),
                "shares": work["shares"],
            }
            for number in costs.stated["machines"]
        ],
    }


def tidy(jobs: Sequence[Job], costs: Costs) -> str:
    """CSV: a line a job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rule", "cell", "state", "seconds", "basis", "gpus", "threads", "bytes"])
    for job in jobs:
        taken, size = costs.seconds(job), sum(one.value for one in costs.size(job))
        state = "done" if job.done else "to run"
        cell = "/".join(job.cell.values())
        writer.writerow([job.rule, cell, state, round(taken.value, 1), taken.basis, job.gpus, job.threads, round(size)])
    return text.getvalue()


def markdown(found: Mapping[str, Any]) -> str:
    """The plan as text of at most 100 columns."""
    unit = "GPU" if found["machine"] == "card" else "core"
    rules = [
        [
            rule,
            row["jobs"],
            row["done"],
            row["left"]["jobs"],
            *(_number(row["left"][figure]["value"]) for figure in ("gpu_hours", "cpu_hours")),
            _number(row["left"]["bytes"]["value"] / GB),
            *_shares(row["left"]["cpu_hours"]),  # a rule's jobs all hold as many cores
        ]
        for rule, row in sorted(found["rules"].items(), key=lambda item: -item[1]["left"]["cpu_hours"]["value"])
    ]
    left, done, path = found["left"], found["done"], found["critical_path"]
    figures = [
        ["GPU hours", _number(left["gpu_hours"]["value"]), *_shares(left["gpu_hours"])],
        ["CPU hours (cores held)", _number(left["cpu_hours"]["value"]), *_shares(left["cpu_hours"])],
        ["disk, GB", _number(left["bytes"]["value"] / GB), *_shares(left["bytes"])],
        ["critical path, hours", _number(path["value"]), *_shares(path)],
    ]
    for row in found["wall"]:
        count = row["machines"]
        where = f"{count} {unit}{'s' * (count > 1)}" + (f" and {row['cores']} cores" if unit == "GPU" else "")
        figures.append([f"hours on {where}", _number(row["value"]), *_shares(row)])
    if done["jobs"]:
        figures += [
            ["done already: GPU hours", _number(done["gpu_hours"]["value"]), *_shares(done["gpu_hours"])],
            ["done already: CPU hours", _number(done["cpu_hours"]["value"]), *_shares(done["cpu_hours"])],
            ["done already: disk, GB", _number(done["bytes"]["value"] / GB), *_shares(done["bytes"])],
        ]
    chain = [
        textwrap.fill(
            f"- {_number(job['hours'])} h, {job['basis']}: {job['job']}",
            100,
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        for job in path["jobs"]
    ]
    head = f"{found['jobs']:,} jobs: {done['jobs']:,} done, {left['jobs']:,} to run."
    return "\n\n".join(
        [
            f"# Plan: scale {found['scale']}, target {found['target']}",
            head,
            _table(["to run", "", *BASES], figures),
            _table(["rule", "jobs", "done", "to run", "GPU h", "CPU h", "GB", *BASES], rules),
            "\n".join(["The critical path:", "", *chain]) if chain else "Nothing is left to run.",
            NOTES.strip() + "\n",
        ]
    )


def draw(found: Mapping[str, Any]) -> Figure:
    """Hours by rule, and the wall time by the number of cards (or cores); a column wide."""
    sns.set_theme(style="ticks", context="paper", rc=STYLE)
    card = found["machine"] == "card"
    hours, unit = ("gpu_hours", "GPU") if card else ("cpu_hours", "CPU")
    rules = {rule: row["left"][hours] for rule, row in found["rules"].items() if row["left"][hours]["value"] > 0}
    names = sorted(rules, key=lambda rule: rules[rule]["value"])
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(COLUMN, 2.3 + 0.16 * max(len(names), 3)), height_ratios=[0.5 + 0.16 * max(len(names), 3), 1.5]
    )
    for place, rule in enumerate(names):
        start = 0.0
        for basis in BASES:
            value = rules[rule]["value"] * rules[rule]["shares"][basis]
            above.barh(
                place, value, 0.7, start, color=COLOURS[basis], hatch=HATCHES[basis], edgecolor="white", linewidth=0
            )
            start += value
        above.annotate(_number(start), (start, place), (2, 0), textcoords="offset points", va="center", fontsize=6)
    above.set_yticks(range(len(names)), names)
    above.tick_params(axis="y", length=0)
    above.margins(x=0.12)
    above.set_xlim(left=0)
    above.set_xlabel(f"{unit} hours to run, by what they rest on")
    patches = [
        plt.Rectangle((0, 0), 1, 1, facecolor=COLOURS[b], hatch=HATCHES[b], edgecolor="white", linewidth=0)
        for b in BASES
    ]
    above.legend(patches, BASES, loc="lower right", handlelength=1.4)
    rows = found["wall"]
    numbers, walls = [row["machines"] for row in rows], [row["value"] for row in rows]
    below.plot(numbers, [row["at_least"] for row in rows], ":", color="#777777", linewidth=1, label="no less than")
    below.plot(numbers, walls, "o-", color="black", markersize=3.5, linewidth=1, label="simulated")
    for number, value in zip(numbers, walls, strict=True):
        below.annotate(_number(value), (number, value), (3, 3), textcoords="offset points", fontsize=6)
    if max(walls) > 0:
        below.set(xscale="log", yscale="log")
    below.set_xticks(numbers, [str(number) for number in numbers])
    below.xaxis.set_minor_locator(NullLocator())
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    below.margins(x=0.12, y=0.2)
    below.set_xlabel("GPUs" if card else "cores")
    below.set_ylabel("hours to the end")
    below.legend(loc="upper right")
    figure.align_ylabels()
    figure.tight_layout(h_pad=0.8)
    return figure


def _hours(jobs: Iterable[Job], seconds: Mapping[int, Amount], what: str) -> dict[str, Any]:
    """Hours of `gpus` or `threads` held."""
    return _figure(Amount(getattr(job, what) * seconds[job.id].value / HOUR, seconds[job.id].basis) for job in jobs)


def _figure(amounts: Iterable[Amount]) -> dict[str, Any]:
    """A sum and the share of each basis in it; no share where the sum is 0."""
    parts = dict.fromkeys(BASES, 0.0)
    for amount in amounts:
        parts[amount.basis] += amount.value
    total = sum(parts.values())
    return {"value": total, "shares": {basis: part / total if total else 0.0 for basis, part in parts.items()}}


def _name(job: Job) -> str:
    return " ".join([job.rule, *job.cell.values()])


def _number(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _shares(figure: Mapping[str, Any]) -> list[str]:
    """Percentages; what is there but rounds to nothing is said to be there, and what is not all is not called all."""
    shown = []
    for basis in BASES:
        percent = 100 * figure["shares"][basis]
        edge = "<1" if 0 < percent < 1 else ">99" if 99 < percent < 100 else f"{percent:.0f}"
        shown.append(f"{edge}%" if percent else "-")
    return shown


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with columns of even width, the first to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *texts]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ":" if i else "-" * (width + 2) for i, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, texts)])
