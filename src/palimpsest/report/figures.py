"""A figure of a paper, drawn from its cells, and the plotted numbers as CSV beside it.

paper.yaml says for each figure what kind it is and what its axes are. Its CSV has the cells, and what the paper's text
or tables state of them. Every kind takes the compared cells and returns a matplotlib figure of the width that it has in
a paper of two columns. An unlearner's method has one colour, hatch and marker in every figure of every paper.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any
from zlib import crc32

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palimpsest.pipeline import papers
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.configuration import ROOT, method_of
from palimpsest.pipeline.values import SEVERAL, named
from palimpsest.report import compare, tables
from palimpsest.report.compare import Compared
from palimpsest.report.pictures import PAGE, images, pictures, replaced, restored

Words = Mapping[str, Any]  # of paper.yaml
LOOKS = ROOT / "workflow" / "report" / "looks.yaml"
COLUMN = 3.5  # inches, of a page of two columns
OTHERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")  # of what is no unlearner
MARKERS, HATCHES = "osD^vP<", ("//", "..", "xx", "\\\\", "++", "oo", "--")
RIVAL: dict[str, Any] = {"color": "#C00000", "linestyle": "--", "linewidth": 0.8}  # the line of who knows nothing
STYLE = {
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "legend.fontsize": 6.5, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "hatch.linewidth": 0.4, "svg.hashsalt": "palimpsest",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "pdf.fonttype": 42,
}  # fmt: skip


def of(plan: Plan, paper: str, name: str, results: Path) -> tuple[Figure, list[Compared]]:
    """Return a figure of a plan and its compared cells, from what lies below `results`, which is results/<scale>."""
    about = plan.papers[paper]
    own = about["figures"][name]
    found = compare.compare(plan.figures[paper, name], results)
    sns.set_theme(style="ticks", context="paper", rc=STYLE)
    return KINDS[own["kind"]](plan, about, own, found, results), found


def saved(figure: Figure, kind: str) -> bytes:
    """Return the figure as a file of a kind, `svg` or `pdf`: the same for the same numbers whenever it is drawn."""
    made = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(made, format=kind, bbox_inches="tight", metadata=undated[kind])
    return made.getvalue()


def numbers(found: Sequence[Compared], results: Path) -> str:
    """Return the plotted numbers as CSV: for cells that of a table, for distributions a line for each value."""
    samples = [row for one in found for row in _samples(one, results)] or [
        {"forget": one.cell.forget, "repetition": number, "step": step, "value": value}
        for one in found
        for number, values in _traces(one, results).items()
        for step, value in enumerate(values)
    ]
    return pd.DataFrame(samples).to_csv(index=False, lineterminator="\n") if samples else tables.tidy(found)


def bars(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw bars by data set and unlearner, a panel for each value of `panels`; the paper's numbers are diamonds."""
    names = about.get("names", {})
    panels = list(dict.fromkeys(_field(one, own["panels"]) for one in found))
    figure, axes = plt.subplots(len(panels), 1, figsize=(PAGE, 1.55 * len(panels) + 0.3), sharex=True, squeeze=False)
    unlearners = list(dict.fromkeys(one.cell.unlearner for one in found))
    data_sets = list(dict.fromkeys(one.cell.dataset for one in found))
    width = 0.84 / len(unlearners)
    fills: dict[str, dict[str, Any]] = {}
    for unlearner in unlearners:
        colour, hatch, _ = style(plan, unlearner)
        fills[unlearner] = {"facecolor": _lighter(colour), "edgecolor": colour, "hatch": hatch}
    diamond: dict[str, Any] = {"marker": "D", "markerfacecolor": "white", "markeredgecolor": "#C00000"}
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        here = [one for one in found if _field(one, own["panels"]) == panel]
        for one in sorted(here, key=lambda one: unlearners.index(one.cell.unlearner)):
            position = data_sets.index(one.cell.dataset)
            x = position + (unlearners.index(one.cell.unlearner) - (len(unlearners) - 1) / 2) * width
            if one.mean is not None:
                axis.bar(x, one.mean, width * 0.92, linewidth=0.6, **fills[one.cell.unlearner])
                sd, top = one.sd or 0.0, compare.SCALES.get(one.unit)  # no proportion lies below 0 or above all
                ends = [[sd], [sd]] if top is None else [[min(sd, one.mean)], [min(sd, top - one.mean)]]
                axis.errorbar(x, one.mean, ends, color="#333333", linewidth=0.7, capsize=1.2)
            else:
                under = one.cell.published is not None and one.cell.published < 50  # clear of the paper's diamond
                height = (one.cell.published or 0.0) + 6 if under else 2.0
                axis.text(x, height, one.short, rotation=90, ha="center", va="bottom", fontsize=5)
            if one.cell.published is not None:
                axis.plot(x, one.cell.published, linestyle="none", markersize=3.2, **diamond)
        for position, data_set in enumerate(data_sets):
            rival = _rival([one for one in here if one.cell.dataset == data_set], about, results)
            if rival is not None:
                axis.hlines(rival, position - 0.46, position + 0.46, **RIVAL)
        axis.set(ylim=own.get("ylim", (0, 105)), ylabel=own["y"])
        axis.set_title(names.get(panel, panel), loc="left")
        axis.set_xticks(range(len(data_sets)), [_label(found, data_set, names) for data_set in data_sets])
        axis.tick_params(axis="x", length=0)
    handles: dict[str, Any] = {names.get(name, name): mpl.patches.Patch(**fill) for name, fill in fills.items()}
    if any(one.cell.published is not None for one in found):
        handles["paper"] = Line2D([], [], color="none", markersize=4, **diamond)
    handles |= {label: Line2D([], [], **RIVAL) for label in _rivals(found, about)}
    above = (0.5, 1.03 if len(panels) > 1 else 1.08)
    figure.legend([*handles.values()], [*handles], loc="upper center", ncols=len(handles), bbox_to_anchor=above)
    figure.tight_layout()
    return figure


def lines(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw a line for each value of `hue` over `x`, whose values stand at `at`; bands are ± one standard deviation."""
    names = about.get("names", {})
    sweep = own.get("sweep")
    at = (papers.places(sweep, plan.config) if sweep else {}) | own.get("at", {})
    along = [papers.swept(sweep)[0] if sweep else own["x"]]
    figure, axis = plt.subplots(figsize=(COLUMN, 2.8))
    hues = list(dict.fromkeys(_field(one, own["hue"]) for one in found))
    for number, hue in enumerate(hues):
        points = sorted(
            (at[_field(one, along)], one.mean, one.sd or 0.0)
            for one in found
            if _field(one, own["hue"]) == hue and one.mean is not None
        )
        if not points:
            continue
        x, mean, sd = map(np.array, zip(*points, strict=True))
        if own["hue"] == ["unlearner"]:
            colour, _, marker = style(plan, hue)
        else:
            colour, marker = OTHERS[number % len(OTHERS)], MARKERS[number % len(MARKERS)]
        first = next(one for one in found if _field(one, own["hue"]) == hue and one.mean is not None)
        axis.plot(
            x, mean, marker=marker, color=colour, label=_named(first, own["hue"], names), markersize=3,
            linewidth=1.2, linestyle=("-", "--", ":")[number % 3],  # lines that coincide are both seen
        )  # fmt: skip
        top = compare.SCALES.get(first.unit)  # no proportion lies below 0 or above all
        low, high = (mean - sd, mean + sd) if top is None else np.clip((mean - sd, mean + sd), 0, top)
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    rivals: dict[str, dict[float, float]] = {}  # of each forget set, unless that is what varies along the axis
    for one in found:
        if (rival := _rival([one], about, results)) is not None:
            rivals.setdefault("" if along == ["forget"] else one.cell.forget, {})[at[_field(one, along)]] = rival
    for number, idle in enumerate(rivals.values()):
        said = "" if number else ", ".join(_rivals(found, about))
        axis.plot(sorted(idle), [idle[place] for place in sorted(idle)], label=said, **RIVAL)
    if own.get("log"):
        axis.set_xscale("log")
    places = sorted(set(at.values()))
    axis.set_xticks(places, [own.get("ticks", {}).get(x, f"{x:g}") for x in places], minor=False)
    axis.minorticks_off()
    ran = dict.fromkeys(run.dataset for one in found if one.mean is not None for run in one.cell.runs)
    where = ", ".join(filter(None, (*(named(data_set, names) for data_set in ran), _repetitions(found))))
    xlabel = "\n".join(filter(None, (own["xlabel"], where)))
    axis.set(ylim=own.get("ylim", (0, 105)), xlabel=xlabel, ylabel=own["y"])
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.36), ncols=2)
    figure.tight_layout()
    return figure


def distributions(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw every value as a point, forgotten classes apart from the others, in a panel for each cell."""
    names, size = about.get("names", {}), (COLUMN if len(found) < 3 else PAGE, 2.0)
    figure, axes = plt.subplots(1, len(found), figsize=size, squeeze=False, sharey=own.get("share", False))
    for axis, one in zip(axes[0], found, strict=True):
        frame = pd.DataFrame(_samples(one, results))
        axis.set_title(_panel(one, own, names))
        axis.set_ylabel(own["y"] if axis is axes[0, 0] else "")
        if not len(frame):
            axis.text(0.5, 0.5, one.short, ha="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
            continue
        shaken = np.random.default_rng(0)  # the same points in the same places whenever it is drawn
        for position, (kind, colour) in enumerate((("forgotten", "#D55E00"), ("kept", "#0072B2"))):
            values = frame["value"][frame["class"] == kind]
            axis.plot(
                position + shaken.uniform(-0.3, 0.3, len(values)), values, "o", color=colour, alpha=0.6, ms=1.8, mew=0
            )
        sns.boxplot(
            frame, x="class", y="value", order=["forgotten", "kept"], width=0.5, showfliers=False, fill=False,
            color="#333333", linewidth=0.7, ax=axis,
        )  # fmt: skip
        servers, sides = frame["repetition"].nunique(), frame["class"].value_counts()
        counts = " and ".join(str(sides.get(kind, 0)) for kind in ("forgotten", "kept"))
        axis.set_xlabel(f"{servers} server{'s' * (servers > 1)}, {counts} {own.get('points', 'values')}")
        axis.set_ylabel(own["y"] if axis is axes[0, 0] else "")  # seaborn has named it
    figure.tight_layout()
    return figure


def heat(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw a field for each value of `hue` (across) and of `x` (down), with our number and the paper's in brackets."""
    names = about.get("names", {})
    across, down = ([*dict.fromkeys(_field(one, fields) for one in found)] for fields in (own["hue"], [own["x"]]))
    figure, axis = plt.subplots(figsize=(COLUMN, 0.7 + 0.6 * len(down)))
    grid = np.full((len(down), len(across)), np.nan)
    for one in found:
        place = down.index(_field(one, [own["x"]])), across.index(_field(one, own["hue"]))
        grid[place] = np.nan if one.mean is None else one.mean
        printed = "" if one.cell.published is None else f"\n({one.cell.published:g})"
        said, size = (fill(one.short, 12), 5) if one.mean is None else (f"{one.mean:.0f}", 7)
        colour = "white" if one.mean is not None and one.mean > 60 else "black"
        axis.text(*place[::-1], said + printed, ha="center", va="center", color=colour, fontsize=size)
    axis.imshow(grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(across)), [fill(named(name, names), 12, break_on_hyphens=False) for name in across])
    axis.set_yticks(range(len(down)), [named(name, names) for name in down])
    axis.set(xlabel="\n".join(filter(None, (own["xlabel"], _repetitions(found)))), ylabel=own["y"])
    axis.tick_params(length=0)
    figure.tight_layout()
    return figure


def traces(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw what an attacker sought to lower after each of its steps, a line for each repetition, a panel for each
    cell.
    """
    figure, axes = plt.subplots(1, len(found), figsize=(COLUMN if len(found) < 3 else PAGE, 2.4), squeeze=False)
    for axis, one in zip(axes[0], found, strict=True):
        several = _traces(one, results)
        axis.set_title(_panel(one, own, about.get("names", {})))
        if not several:
            axis.text(0.5, 0.5, one.short, ha="center", transform=axis.transAxes)
        for number, values in several.items():
            axis.plot(values, color=OTHERS[number % len(OTHERS)], linewidth=1, label=f"repetition {number}")
        axis.set(xlabel=own["xlabel"], ylabel=own["y"] if axis is axes[0, 0] else "")
        if 0 < len(several) < 8:
            axis.legend()
    figure.tight_layout()
    return figure


KINDS = {
    "bars": bars, "lines": lines, "distributions": distributions, "heat": heat, "traces": traces, "images": images,
    "pictures": pictures, "replaced": replaced, "restored": restored,
}  # fmt: skip


@cache
def looks() -> dict[str, tuple[str, str, str]]:
    """Return colour, hatch and marker of methods, from workflow/report/looks.yaml."""
    return {name: tuple(look) for name, look in yaml.safe_load(LOOKS.read_text()).items()}


def style(plan: Plan, unlearner: str) -> tuple[str, str, str]:
    """Return colour, hatch and marker of an unlearner, by its method; variants of a method look alike."""
    known = unlearner in plan.config["unlearners"]
    method = method_of(plan.config, "unlearners", unlearner) if known else unlearner
    if method in looks():
        return looks()[method]
    number = crc32(method.encode())  # the same for the same name, whatever other methods there are
    kinds = len(OTHERS), len(HATCHES), len(MARKERS)
    return OTHERS[number % kinds[0]], HATCHES[number // 7 % kinds[1]], MARKERS[number // 49 % kinds[2]]


def _field(one: Compared, names: Sequence[str]) -> str:
    """Return the values that a cell has in some of its fields, as one phrase that `names` in paper.yaml may know."""
    return " ".join(filter(None, (str(getattr(one.cell, name)) for name in names)))


def _named(one: Compared, fields: Sequence[str], names: Mapping[str, str]) -> str:
    """Return the same phrase in the paper's words: its own, or those of each value."""
    phrase = _field(one, fields)
    values = filter(None, (str(getattr(one.cell, name)) for name in fields))
    return names.get(phrase) or ", ".join(named(value, names) for value in values)


def _label(found: Sequence[Compared], data_set: str, names: Mapping[str, str]) -> str:
    label = "mean" if SEVERAL in data_set else names.get(data_set, data_set)
    runs = next((one.cell.runs for one in found if one.cell.dataset == data_set and one.cell.runs), ())
    ours = SEVERAL.join(dict.fromkeys(run.dataset for run in runs))
    if label == "mean":
        label = f"mean of {len({run.dataset for run in runs})}" if runs else label
    elif ours and ours != data_set:
        label = f"{label}\n→ {named(ours, names)}"
    return label + f"\n{_repetitions([one for one in found if one.cell.dataset == data_set])}"


def _repetitions(found: Sequence[Compared]) -> str:
    """Return how many repetitions stand behind the numbers: `n = 3`, `n = 3 to 5`, or nothing."""
    counts = sorted({one.n for one in found if one.n})
    return "" if not counts else f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _panel(one: Compared, own: Mapping[str, Any], names: Mapping[str, str]) -> str:
    said = [names.get(_field(one, [name]), _field(one, [name])) for name in own["panels"]]
    ours = one.cell.runs[0].dataset if one.cell.runs else one.cell.dataset
    return ", ".join(said) + ("" if ours == one.cell.dataset else f"\n→ {names.get(ours, ours)}")


def _rivals(found: Sequence[Compared], about: Mapping[str, Any]) -> list[str]:
    """Return the labels of attackers who know nothing, for the metrics that have one in `baselines` of paper.yaml."""
    rivals = about.get("baselines", {})
    return list(dict.fromkeys(rivals[one.cell.metric]["label"] for one in found if one.cell.metric in rivals))


def _rival(cells: Sequence[Compared], about: Mapping[str, Any], results: Path) -> float | None:
    """Return the number of an attacker who knows nothing, for the first of `cells` that was run."""
    for one in cells:
        if one.mean is not None and one.cell.metric in about.get("baselines", {}):
            metric = about["baselines"][one.cell.metric]["metric"]
            (found,) = compare.compare([replace(one.cell, metric=metric)], results)
            return found.mean
    return None


def _samples(one: Compared, results: Path) -> list[dict[str, Any]]:
    """Return the values behind a cell that is a distribution, a row for each."""
    if not one.cell.runs:
        return []
    key = [getattr(one.cell, field) for field in compare.FIELDS]
    rows = compare.read_rows(results / one.cell.runs[0].rows)
    about = {name: getattr(one.cell, name) for name in ("dataset", "model", "forget", "unlearner", "attack", "metric")}
    return [
        {
            **about,
            "run_dataset": one.cell.runs[0].dataset,
            "repetition": row["repetition"],
            "label": label,
            "class": "forgotten" if label in row["forgotten"] else "kept",
            "value": value,
        }
        for row in rows
        if "values" in row and [row.get(field, "") for field in compare.FIELDS] == key
        for value, label in zip(row["values"], row["classes"], strict=True)
    ]


def _traces(one: Compared, results: Path) -> dict[int, list[float]]:
    """Return by repetition the values that a cell's number ran through."""
    key = [getattr(one.cell, field) for field in compare.FIELDS]
    rows = compare.read_rows(results / one.cell.runs[0].rows) if one.cell.runs else []
    own = [row for row in rows if "trace" in row and [row.get(field, "") for field in compare.FIELDS] == key]
    return {row["repetition"]: row["trace"] for row in own}


def _lighter(colour: str) -> tuple[float, float, float]:
    """Return the colour half way to white, so that hatches show on it."""
    red, green, blue = (0.55 + 0.45 * part for part in mpl.colors.to_rgb(colour))
    return red, green, blue
