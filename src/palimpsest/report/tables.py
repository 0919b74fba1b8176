"""A table as the paper lays it out: blocks by data set, a line for each unlearner, and our controls below.

The layout stands in paper.yaml (`layout`: groups of columns, the column of each metric), never here. `arrange` turns
the compared cells into a `Table`, which `formats` writes as Markdown, LaTeX and HTML; `tidy` writes every cell with all
that is known of it as CSV. None of these depends on when, where or in which order the rows were made.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from palimpsest.pipeline.cells import Cell, Plan
from palimpsest.pipeline.errors import ConfigError
from palimpsest.pipeline.values import ARROW, SEVERAL, Kind, named
from palimpsest.report import compare, marks, settings
from palimpsest.report.compare import Compared, Verdict


@dataclass(frozen=True)
class Column:
    """A column: its name, the group above it (`short` where there is no room), as many decimals as the paper prints."""

    name: str
    group: str
    short: str
    places: int


@dataclass(frozen=True)
class Line:
    """One unlearner's numbers, a place for each column. reason: why none of the line was run, where that is so."""

    label: str
    control: str
    cells: tuple[Compared | None, ...]
    reason: str

    @property
    def first(self) -> int:
        """The place of its first number; a control has no test accuracy, and its long label takes that place too."""
        return next(place for place, one in enumerate(self.cells) if one)


@dataclass(frozen=True)
class Block:
    """The lines of one data set, network and forget set; `title` names the paper's, and what stands in for each."""

    title: str
    about: str
    lines: tuple[Line, ...]
    controls: tuple[Line, ...]
    variants: str


@dataclass(frozen=True)
class Table:
    """A table ready to be written. n: how many repetitions most numbers have; only the others must say theirs."""

    paper: str
    name: str
    scale: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    banner: tuple[str, ...]
    n: int
    footnotes: tuple[str, ...]
    signs: tuple[Verdict, ...]

    @property
    def cells(self) -> list[Compared]:
        """Every cell of the table."""
        return [one for block in self.blocks for line in block.lines + block.controls for one in line.cells if one]

    @property
    def groups(self) -> list[tuple[str, int, int]]:
        """The groups of columns: label, index of the first, how many."""
        labels = [column.group for column in self.columns]
        return [(label, labels.index(label), labels.count(label)) for label in dict.fromkeys(labels)]


def of(plan: Plan, paper: str, table: str, results: Path) -> tuple[Table, list[Compared]]:
    """Return a table of a plan, from the rows below `results`, and its compared cells."""
    found = compare.compare(plan.tables[paper, table], results)
    of_run = {run: marks.marks(plan, run, results) for one in found for run in one.cell.runs}
    found = [replace(one, marks=tuple(dict.fromkeys(m for run in one.cell.runs for m in of_run[run]))) for one in found]
    made, about = arrange(plan.papers[paper], plan.config["scale"], found), plan.papers[paper]
    lines = [line for block in made.blocks for line in block.lines + block.controls]
    columns = [[one.cell for one in column if one] for column in zip(*(line.cells for line in lines), strict=True)]
    names = about.get("names", {})
    differ = settings.differ(plan.config, columns, names)
    return replace(
        made,
        footnotes=tuple(filter(None, (*made.footnotes, _observed(plan, found, names, _layout(about, table)), differ))),
    ), found


def _layout(about: Mapping[str, Any], table: str) -> Mapping[str, Any]:
    """Return the layout of a table: its own, or that of all of a paper's tables."""
    own: Mapping[str, Any] = about["tables"][table].get("layout") or about["layout"]
    return own


def _observed(plan: Plan, found: Sequence[Compared], names: Mapping[str, str], layout: Mapping[str, Any]) -> str:
    """Return whose features the numbers of pictures rest on and on how many pictures, and which of them are too few;
    empty where there are none.
    """
    looked = {name: one for family in plan.families_that_need("observed") for name, one in family.metrics.items()}
    seen: dict[str, set[int]] = {}
    few: dict[str, int] = {}
    for one in found:
        if one.cell.metric in looked and one.cell.run and one.images:
            observer = str(plan.config["models"][one.cell.run.model].get("observer", ""))
            seen.setdefault(named(observer, names), set()).add(one.images)
            if one.images < (least := looked[one.cell.metric].least):
                few[layout["metrics"][one.cell.metric]["column"]] = least
    who = " and ".join(
        f"{observer} ({' or '.join(map(str, sorted(many)))} pictures)" for observer, many in seen.items()
    )
    says = [f"Scores of pictures as a set rest on the features of {who}."] if who else []
    says += [f"{column} of fewer than {least:,} pictures says little." for column, least in few.items()]
    return " ".join(says)


def arrange(about: Mapping[str, Any], scale: str, found: Sequence[Compared]) -> Table:
    """Lay out the cells of one table; `about` is the content of paper.yaml.

    Raises `ConfigError` for a cell without a column, or two cells in one place.
    """
    first = found[0].cell
    own, layout = about["tables"][first.table], _layout(about, first.table)
    names = about.get("names", {})
    slots = [(group, name) for group in layout["groups"] for name in group["columns"]]
    columns = tuple(Column(name, group["label"], group["short"], layout["places"][name]) for group, name in slots)
    blocks: dict[tuple[str, str, str], dict[tuple[str, str, str], dict[int, Compared]]] = {}
    for one in found:
        cell = one.cell
        where = f"config/papers/{cell.paper}/{cell.table}.csv:{cell.line}"
        named_so = layout["metrics"].get(cell.metric, {}).get("column")
        fit = [name == named_so and compare.matches(cell, group["cells"]) for group, name in slots]
        if True not in fit:
            raise ConfigError(f"{where}: the layout in paper.yaml has no column for {cell.metric} of this cell.")
        index = fit.index(True)
        line = blocks.setdefault((cell.dataset, cell.model, cell.forget), {}).setdefault(
            (cell.control, cell.unlearner, cell.defense), {}
        )
        if index in line:
            raise ConfigError(f"{where}: two cells stand in one place of the layout in paper.yaml.")
        line[index] = replace(one, winner=named(one.winner, names)) if one.winner else one
    of_controls: dict[str, dict[str, None]] = {}
    for one in found:
        if one.cell.control:
            says = layout["metrics"][one.cell.metric]["says"]
            of_controls.setdefault(says, {})[f"“{names.get(one.cell.control, one.cell.control)}”"] = None
    controls = [
        f"The control{'s' * (len(labels) > 1)} {', '.join(labels)} give{'s' * (len(labels) == 1)} the {says}."
        for says, labels in of_controls.items()
    ]
    devices = dict.fromkeys(device for one in found for device in one.devices)
    measured = [f"Seconds were measured on {'; '.join(devices)}."] if devices else []
    said = [f"{mark.sign} {mark.meaning}." for mark in marks.Mark if any(mark in one.marks for one in found)]
    shown = {one.verdict for one in found}
    return Table(
        paper=first.paper,
        name=first.table,
        scale=scale,
        title=own["title"],
        caption=own["caption"],
        columns=columns,
        blocks=tuple(_block(lines, columns, names, layout["metrics"]) for lines in blocks.values()),
        banner=banner((one.cell for one in found), names),
        n=usual_n(found),
        footnotes=(*([own["footnote"]] if "footnote" in own else []), *controls, *measured, *said),
        signs=tuple(verdict for verdict in Verdict if verdict.meaning and verdict in shown),
    )


def usual_n(found: Iterable[Compared]) -> int:
    """Return how many repetitions most numbers have; 0 where there is no number."""
    counts = Counter(one.n for one in found if one.n)
    return counts.most_common(1)[0][0] if counts else 0


def _block(
    lines: Mapping[tuple[str, str, str], Mapping[int, Compared]],
    columns: Sequence[Column],
    names: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Block:
    made = []
    for (control, unlearner, defense), placed in lines.items():
        cells = tuple(placed.get(index) for index in range(len(columns)))
        missing = {one.why for one in placed.values() if one.verdict is Verdict.NOT_RUN}
        whole = all(one.verdict in (Verdict.NOT_RUN, Verdict.NOT_APPLICABLE) for one in placed.values())
        reason = missing.pop() if whole and len(missing) == 1 else ""
        said = "".join(f" {mark.sign}" for mark in marks.Mark if any(mark in one.marks for one in placed.values()))
        label = named(unlearner, names) + (f", {named(defense, names)}" if defense else "") + said
        made.append(Line(label, names.get(control, control), cells, reason))
    every = [one.cell for placed in lines.values() for one in placed.values()]
    cell, runs = every[0], next((cell.runs for cell in every if cell.runs), ())
    used = {
        metrics[cell.metric]["column"]: metrics[cell.metric]["says"] for cell in reversed(every) if not cell.control
    }
    used = {column.name: used[column.name] for column in columns if column.name in used}

    def beside(kind: str, theirs: str) -> str:
        """Return the paper's name of a data set, network or forget set, and what stands in for it."""
        ours = SEVERAL.join(dict.fromkeys(getattr(run, kind) for run in runs)) or theirs
        said = [named(one, names) for one in (theirs, ours)]  # a chain and its first steps may have one name
        return ARROW.join(dict.fromkeys(said))

    network = beside("model", SEVERAL.join(dict.fromkeys(cell.model.split(SEVERAL))))
    return Block(
        title=beside("dataset", cell.dataset),
        about=f"{network}; forgotten: {beside('forget', cell.forget)}",
        lines=tuple(line for line in made if not line.control),
        controls=tuple(line for line in made if line.control),
        variants=f"{named(cell.dataset, names)}: {'; '.join(f'{name} is {says}' for name, says in used.items())}."
        if used
        else "",
    )


def banner(cells: Iterable[Cell], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a reader must know before any number: stand-ins and cut budgets; nothing where there are none."""
    ran = [cell for cell in cells if cell.run]
    reduced = [cell for cell in ran if cell.reductions]
    if not reduced:
        return ()
    every = dict.fromkeys(cut for cell in reduced for cut in cell.reductions)
    stand_ins, budgets, absent = ([cut for cut in every if cut.kind is kind] for kind in Kind)
    says = (
        "No number here reproduces a printed one, so none is judged."
        if len(reduced) == len(ran)
        else f"{len(reduced)} of {len(ran)} numbers here do not reproduce a printed one, so they are not judged."
    )
    found = [f"{'Stand-ins' if stand_ins else 'Reduced budget' if budgets else 'Not all data sets'}. {says}"]
    if stand_ins:
        found.append(f"What stands for what: {'; '.join(dict.fromkeys(cut.says(names) for cut in stand_ins))}.")
    alike: dict[str, list[str]] = {}  # by what is cut, the methods
    for name in dict.fromkeys(named(cut.what, names) for cut in budgets):
        cuts = dict.fromkeys(f"{cut.theirs} {cut.ours}" for cut in budgets if named(cut.what, names) == name)
        alike.setdefault(", ".join(cuts), []).append(name)
    if alike:
        said = "; ".join(f"{', '.join(methods)}: {cut_so}" for cut_so, methods in alike.items())
        found.append(f"Budgets are reduced: {said}.")
    if absent:
        of_means = [cell.reductions for cell in ran if SEVERAL in cell.dataset]
        lack = {named(cut.theirs, names): all(cut in cuts for cuts in of_means) for cut in absent}
        always, sometimes = ([name for name in lack if lack[name] == whole] for whole in (True, False))
        parts = [f"without {', '.join(always)}"] if always else []
        parts += [f"some without {', '.join(sometimes)}"] if sometimes else []
        found.append(f"Means over data sets are {', and '.join(parts)}, which were not run here.")
    return tuple(found)


def tidy(found: Iterable[Compared]) -> str:
    """Return CSV with a line for each cell: its fields, what was found, and the record below results/<scale>/."""
    hidden = ("runs", "reductions", "printed_trials", "widest_interval", "alone", "parts")
    about = [field.name for field in fields(Cell) if field.name not in hidden]
    kinds = ("dataset", "model", "forget", "unlearner")
    ours = ("mean", "sd", "n", "unit", "images", "half_width", "difference", "verdict", "why")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*about, *(f"run_{kind}" for kind in kinds), *ours, "reductions", "record", "winner", "marks"])
    for one in found:
        cell = one.cell
        ran = [SEVERAL.join(dict.fromkeys(getattr(run, kind) for run in cell.runs)) for kind in kinds]
        numbers = (getattr(one, name.removesuffix("_width")) for name in ours)
        rounded = [round(number, 6) if isinstance(number, float) else number for number in numbers]
        reductions = "; ".join(map(str, cell.reductions))
        last = (reductions, one.record, one.winner, "; ".join(one.marks))
        writer.writerow([*(getattr(cell, name) for name in about), *ran, *rounded, *last])
    return text.getvalue()
