"""What must be computed: the cells of every table, read from its CSV, with the scale's stand-ins applied.

A table's CSV (config/papers/<paper>/<table>.csv) holds its cells and the published numbers at once: the target list
and the reference. Adding a row adds the work. The rules ask a `Plan` for their inputs; the report asks it what stands
where.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from palimpsest.pipeline import method
from palimpsest.pipeline.configuration import RESERVED, ROOT, SECTIONS, ConfigError, grid_of, keywords_of, method_of

ORIGINAL = "original"  # the model before unlearning, in the place of an unlearner
NO_ATTACK = "none"
NO_DEFENSE = ""
COLUMNS = (
    "dataset", "model", "forget", "unlearner", "attack", "epsilon", "defense", "metric", "control", "published", "note"
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a job is about, in the scale's own names: the wildcards of every path."""

    dataset: str
    model: str
    forget: str
    unlearner: str

    @property
    def rows(self) -> str:
        """Where its measurements lie, below results/<scale>/."""
        return f"rows/{self.dataset}/{self.model}/{self.forget}/{self.unlearner}.jsonl"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    dataset, model, forget, unlearner, attack, epsilon, defense, metric: as the paper has them. control: a label, where
    the row is a control of ours that the paper lacks. published: the printed number, None where there is none; `note`
    then says why. run: what to compute at this scale; None where that cannot be, and `missing` says why.
    reductions: in what the run differs from the paper's; a number with any is not a reproduction.
    """

    paper: str
    table: str
    line: int
    dataset: str
    model: str
    forget: str
    unlearner: str
    attack: str
    epsilon: str
    defense: str
    metric: str
    control: str
    published: float | None
    note: str
    run: Run | None
    missing: str
    reductions: tuple[str, ...]


class Plan:
    """All cells of all papers under one resolved configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @cached_property
    def papers(self) -> dict[str, dict[str, Any]]:
        """What each paper's `paper.yaml` says, by the paper's short name."""
        files = sorted((ROOT / "config" / "papers").glob("*/paper.yaml"))
        return {file.parent.name: yaml.safe_load(file.read_text()) for file in files}

    @cached_property
    def tables(self) -> dict[tuple[str, str], list[Cell]]:
        """The cells of each (paper, table), in the order of its CSV."""
        return {
            (paper, table): list(self._read(paper, table))
            for paper, about in self.papers.items()
            for table in about.get("tables", {})
        }

    @cached_property
    def attacks(self) -> dict[Run, list[str]]:
        """The attacks that some cell asks of each run."""
        found: dict[Run, set[str]] = {}
        for cells in self.tables.values():
            for cell in cells:
                if cell.run:
                    found.setdefault(cell.run, set()).update({cell.attack} - {NO_ATTACK})
        return {run: sorted(names) for run, names in found.items()}

    @cached_property
    def defenses(self) -> dict[Run, list[str]]:
        """The defenses that some cell asks of each run."""
        found: dict[Run, set[str]] = {}
        for cells in self.tables.values():
            for cell in cells:
                if cell.run and cell.defense != NO_DEFENSE:
                    found.setdefault(cell.run, set()).add(cell.defense)
        return {run: sorted(names) for run, names in found.items()}

    def rows(self, paper: str, table: str | None = None) -> list[str]:
        """The row files behind a table, or behind all tables of a paper, below results/<scale>/."""
        chosen = [cells for (p, t), cells in self.tables.items() if p == paper and table in (None, t)]
        return sorted({cell.run.rows for cells in chosen for cell in cells if cell.run})

    def attacks_of(self, dataset: str, model: str, forget: str, unlearner: str) -> list[str]:
        """The attacks to evaluate on one run."""
        return self.attacks.get(Run(dataset, model, forget, unlearner), [])

    def defenses_of(self, dataset: str, model: str, forget: str, unlearner: str) -> list[str]:
        """The defenses to evaluate one run under."""
        return self.defenses.get(Run(dataset, model, forget, unlearner), [])

    def requests_of(self, dataset: str, model: str, unlearner: str) -> list[str]:
        """The forget sets that an unlearner's own base training must know; none where it does not ask."""
        name = method_of(self.config, "unlearners", unlearner)
        if "requests" not in method.keywords("unlearners", name, "train_base"):
            return []
        runs = (cell.run for cells in self.tables.values() for cell in cells if cell.run)
        return sorted({r.forget for r in runs if (r.dataset, r.model, r.unlearner) == (dataset, model, unlearner)})

    def _read(self, paper: str, table: str) -> Iterator[Cell]:
        file = ROOT / "config" / "papers" / paper / f"{table}.csv"
        with file.open(newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigError(f"{file.relative_to(ROOT)} must have the columns {','.join(COLUMNS)}.")
            rows = [(reader.line_num, row) for row in reader]
        seen: dict[tuple[str, ...], int] = {}
        for line, row in rows:
            key = tuple(row[column] for column in COLUMNS[:-2])
            if key in seen:
                raise ConfigError(f"{file.relative_to(ROOT)}:{line} repeats the cell of line {seen[key]}.")
            seen[key] = line
            yield self._cell(paper, table, line, row)
        yield from self._invited(paper, table, rows)

    def _invited(self, paper: str, table: str, rows: list[tuple[int, dict[str, str]]]) -> Iterator[Cell]:
        """Cells of methods that the configuration puts into this table with `also_in`, as the table's others have."""
        for name, entry in self.config["unlearners"].items():
            wanted = entry.get("also_in", [])
            if f"{paper}_{table}" not in ([wanted] if isinstance(wanted, str) else wanted):
                continue
            shapes: set[tuple[str, ...]] = set()
            for line, row in rows:
                shape = tuple(row[c] for c in ("dataset", "model", "forget", "attack", "epsilon", "defense", "metric"))
                if row["unlearner"] == ORIGINAL or row["control"] or shape in shapes:
                    continue
                shapes.add(shape)
                yield self._cell(
                    paper, table, line, {**row, "unlearner": name, "published": "", "note": "not in the paper"}
                )

    def _cell(self, paper: str, table: str, line: int, row: dict[str, str]) -> Cell:
        where = f"config/papers/{paper}/{table}.csv:{line}"
        for section, name in (("datasets", row["dataset"]), ("models", row["model"]), ("forget_sets", row["forget"])):
            if name not in self.config[section]:
                raise ConfigError(
                    f"{where} has no {section} {name!r}; it takes {', '.join(sorted(self.config[section]))}."
                )
        try:
            published = float(row["published"]) if row["published"] else None
        except ValueError as error:
            raise ConfigError(f"{where}: published must be a number or empty, found {row['published']!r}.") from error
        run, missing = self._run(row)
        return Cell(
            paper=paper,
            table=table,
            line=line,
            published=published,
            run=run,
            missing=missing,
            reductions=self._reductions(row, run) if run else (),
            **{name: row[name] for name in COLUMNS if name != "published"},
        )

    def _run(self, row: dict[str, str]) -> tuple[Run | None, str]:
        if row["note"].startswith("not applicable"):
            return None, row["note"]
        for kind in ("unlearners", "attacks", "defenses"):
            name = row[kind.removesuffix("s")]
            if name not in (ORIGINAL, NO_ATTACK, NO_DEFENSE) and name not in self.config[kind]:
                return None, f"not built yet: {kind.removesuffix('s')} {name}"
        substitutes = {
            "dataset": self._stand_in("datasets", row["dataset"], row["dataset"]),
            "model": self._stand_in("models", row["model"], row["dataset"]),
            "forget": self._stand_in("forget_sets", row["forget"], row["dataset"]),
        }
        absent = [row[kind] for kind, name in substitutes.items() if name is None]
        if absent:
            return None, f"not run at this scale: {', '.join(absent)}"
        return Run(unlearner=row["unlearner"], **{kind: str(name) for kind, name in substitutes.items()}), ""

    def _stand_in(self, kind: str, name: str, dataset: str) -> str | None:
        """What stands for `name` at this scale: itself, another, by data set where that is given, or None."""
        substitute = self.config["stand_ins"].get(kind, {}).get(name, name)
        return substitute.get(dataset, name) if isinstance(substitute, dict) else substitute

    def _reductions(self, row: dict[str, str], run: Run) -> tuple[str, ...]:
        found = [
            f"{name} → {substitute}"
            for name, substitute in (
                (row["dataset"], run.dataset),
                (row["model"], run.model),
                (row["forget"], run.forget),
            )
            if name != substitute
        ]
        for kind in ("unlearners", "attacks", "defenses"):
            name = row[kind.removesuffix("s")]
            if name in self.config[kind]:
                budgets = self.config["budgets"].get(kind, {})
                backbone = keywords_of(self.config, kind, name).get("backbone", "")
                cuts: dict[str, Any] = {}
                for source in (backbone, method_of(self.config, kind, name), name):
                    cuts |= budgets.get(source, {})
                for key, value in cuts.items():
                    if key not in RESERVED[kind]:
                        said = f"of {value['tune']}" if isinstance(value, dict) and "tune" in value else value
                        found.append(f"{name}: {key} {said}")
        return tuple(found)


def recipe_of(config: Mapping[str, Any], dataset: str, model: str) -> dict[str, Any]:
    """The training recipe of a model on a data set: `model`'s, overridden by `dataset/model`'s."""
    recipes = config["recipes"]
    if model not in recipes and f"{dataset}/{model}" not in recipes:
        raise ConfigError(f"recipes has neither {model!r} nor '{dataset}/{model}'; it takes {', '.join(recipes)}.")
    return {**recipes.get(model, {}), **recipes.get(f"{dataset}/{model}", {})}


def prepares(config: Mapping[str, Any], defense: str) -> bool:
    """Whether a defense is trained before it is used."""
    return method.has("defenses", method_of(config, "defenses", defense), "prepare")


def base_of(config: Mapping[str, Any], dataset: str, model: str, unlearner: str) -> str:
    """The folder of an unlearner's base models: one of its own where its method trains them in its own way."""
    return f"base/{dataset}/{model}" + (f"/{unlearner}" if trains_base(config, unlearner) else "")


def trains_base(config: Mapping[str, Any], unlearner: str) -> bool:
    """Whether an unlearner's method has a base training of its own."""
    return method.has("unlearners", method_of(config, "unlearners", unlearner), "train_base")


def fixed_of(config: Mapping[str, Any], unlearner: str) -> dict[str, Any]:
    """An unlearner's keywords without those that rule `tune` chooses."""
    tuned = grid_of(config, unlearner)
    return {key: value for key, value in keywords_of(config, "unlearners", unlearner).items() if key not in tuned}


def base_keywords_of(config: Mapping[str, Any], unlearner: str) -> dict[str, Any]:
    """Of an unlearner's keywords those that its own base training takes too."""
    return _taken_by(config, "unlearners", unlearner, "train_base")


def prepare_keywords_of(config: Mapping[str, Any], defense: str) -> dict[str, Any]:
    """Of a defense's keywords those of its training."""
    return _taken_by(config, "defenses", defense, "prepare")


def _taken_by(config: Mapping[str, Any], section: str, name: str, function: str) -> dict[str, Any]:
    valid = method.keywords(SECTIONS[section], method_of(config, section, name), function)
    return {key: value for key, value in keywords_of(config, section, name).items() if key in valid}


def code_of(config: Mapping[str, Any], section: str, name: str) -> str:
    """The hash of the code behind an entry of the configuration, for a rule's `params`."""
    backbone = keywords_of(config, section, name).get("backbone")
    around = [f"{SECTIONS[section]}/{method_of(config, section, backbone)}"] if backbone else []
    return method.code(f"{SECTIONS[section]}/{method_of(config, section, name)}", *around)
