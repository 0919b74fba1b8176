"""What must be computed: the cells of every table and figure, read from its CSV, with the scale's stand-ins applied.

The CSV of a table or figure (config/papers/<paper>/<table>.csv) holds its cells and the published numbers, so it is the
list of targets and the reference in one. A row that names several data sets (`mnist+svhn`, with their networks
`lenet+resnet18`) or several unlearners is the mean over them. Rules and report take from a `Plan` what stands where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

from palimpsest import families, ranges
from palimpsest.pipeline import method, papers, paths
from palimpsest.pipeline.configuration import (
    HELD_OUT,
    PROBES,
    RESERVED,
    SECTIONS,
    files_of,
    grid_of,
    keywords_of,
    method_of,
    recipe_of,
    task_of,
)
from palimpsest.pipeline.errors import ConfigError
from palimpsest.pipeline.papers import COLUMNS
from palimpsest.pipeline.values import SAME, SEVERAL, STEP, Kind, Missing, Reduction, Status, Why
from palimpsest.seeds import blocks, numbers

ORIGINAL = "original"  # the model before unlearning, in the place of an unlearner
NO_ATTACK = "none"
NO_DEFENSE = ""
SHAPE = ("dataset", "model", "forget", "attack", "epsilon", "defense", "screening", "metric")
BEFORE = "_before"  # the ending of a metric's name that means the model before unlearning


@dataclass(frozen=True)
class Run:
    """A model and what it was asked to forget, in the scale's own names: a base and the steps that were made from it.

    forget, unlearner: the requests and the unlearners of the steps; several have a `-` between them. With the unlearner
    `original` the run is the base itself, which forgets nothing.
    """

    dataset: str
    model: str
    forget: str
    unlearner: str

    @property
    def rows(self) -> str:
        """The path of its measurements, below results/<scale>/."""
        return paths.below("measure", "rows", **self.names)

    @property
    def names(self) -> dict[str, str]:
        """Its fields by name, as wildcards."""
        return asdict(self)

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """The request and the unlearner of each step."""
        requests, unlearners = self.forget.split(STEP), self.unlearner.split(STEP)
        if unlearners == [ORIGINAL]:
            unlearners *= len(requests)
        if len(requests) != len(unlearners):
            raise ConfigError(
                f"{self.forget} and {self.unlearner} name {len(requests)} requests and {len(unlearners)} unlearners."
            )
        return tuple(zip(requests, unlearners, strict=True))

    @property
    def before(self) -> Run | None:
        """The run from which its last step began; None where that is the base."""
        return self.until(len(self.steps) - 1) if len(self.steps) > 1 and self.unlearner != ORIGINAL else None

    def until(self, length: int) -> Run:
        """Return the run of its first `length` steps."""
        requests, unlearners = zip(*self.steps[:length], strict=True)
        joined = ORIGINAL if self.unlearner == ORIGINAL else STEP.join(unlearners)
        return replace(self, forget=STEP.join(requests), unlearner=joined)

    def with_last(self, unlearner: str) -> Run:
        """Return the same run with another unlearner in its last step."""
        names = [name for _, name in self.steps[:-1]] if self.unlearner != ORIGINAL else []
        return replace(self, unlearner=STEP.join([*names, unlearner])) if names or len(self.steps) == 1 else self

    @property
    def chain(self) -> str:
        """The chain as one part of a path, without data set and network."""
        return f"{self.forget}.{self.unlearner}"

    @staticmethod
    def of_chain(dataset: str, model: str, chain: str) -> Run | None:
        """Return the run that has this `chain`; None where the chain is a base."""
        forget, dot, unlearner = chain.partition(".")
        return Run(dataset, model, forget, unlearner) if dot else None


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    dataset to metric: as the paper names them. screening: the decision rule by which an attack on labels calls a class
    forgotten. control: a label, where the row is a control of ours. published: the printed number; None where there is
    none, and `status` and `note` then say why. printed_trials: the trials of which it is the mean. widest_interval: in
    points, the widest that can agree. runs: those over which our number is the mean; where there is none, `missing`
    says why. reductions: how they differ from the paper's; a number with any is not a reproduction. alone: whether it
    is of the one base model from which all repetitions beside it begin. derive: how the number is computed from other
    cells, `parts`.
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
    screening: str
    metric: str
    control: str
    published: float | None
    note: str
    runs: tuple[Run, ...]
    missing: Missing | None
    reductions: tuple[Reduction, ...]
    printed_trials: int = 1
    widest_interval: float = inf
    status: Status = Status.PRINTED
    alone: bool = False
    derive: str = ""
    parts: tuple[Cell, ...] = ()

    @property
    def run(self) -> Run | None:
        """The first of its runs."""
        return self.runs[0] if self.runs else None

    @property
    def measured(self) -> tuple[Cell, ...]:
        """The cells that are measured for it: its parts, or the cell itself."""
        return self.parts or (self,)


class Plan:
    """All cells of all papers under one resolved configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @cached_property
    def papers(self) -> dict[str, dict[str, Any]]:
        """What each paper's `paper.yaml` says, by the paper's short name."""
        files = sorted(papers.PAPERS.glob("*/paper.yaml"))
        return {file.parent.name: papers.read(file.parent) for file in files}

    @cached_property
    def items(self) -> dict[tuple[str, str], list[Cell]]:
        """The cells of each table and figure, by (paper, name), in the order of its CSV."""
        return {
            (paper, name): list(self._read(paper, name))
            for paper, about in self.papers.items()
            for name in (*about.get("tables", {}), *about.get("figures", {}))
        }

    @cached_property
    def tables(self) -> dict[tuple[str, str], list[Cell]]:
        """The cells of each table."""
        return self._items_of("tables")

    @cached_property
    def figures(self) -> dict[tuple[str, str], list[Cell]]:
        """The cells of each figure."""
        return self._items_of("figures")

    def _items_of(self, kind: str) -> dict[tuple[str, str], list[Cell]]:
        return {(p, name): cells for (p, name), cells in self.items.items() if name in self.papers[p].get(kind, {})}

    @cached_property
    def asked(self) -> dict[Run, list[Cell]]:
        """All runs, each with the cells that it stands behind."""
        found: dict[Run, list[Cell]] = {}
        for cells in self.items.values():
            for cell in (part for one in cells for part in one.measured):
                for run in cell.runs:
                    found.setdefault(run, []).append(cell)
        return found

    def check(self) -> None:
        """Refuse what does not fit the data set or the recipe that it meets: `ConfigError` in one sentence."""
        for run in self.asked:
            facts = {
                **self.config["plan"]["images"].get(run.dataset, {}),
                **recipe_of(self.config, run.dataset, run.model),
            }
            numbers = {name: value for name, value in facts.items() if isinstance(value, int | float)}
            if self.shared_base(run) and run.unlearner == ORIGINAL:
                raise ConfigError(f"{run.forget} begins from a base model that no table uses: {ORIGINAL} has no row.")
            self._check_untrained(run)
            for attack in self.attacks_of(run):
                if self.config["attacks"][attack].get("images") == HELD_OUT not in self._held_back(run):
                    raise ConfigError(
                        f"attacks.{attack} is tried on {HELD_OUT}, and {run.dataset} holds back no such split."
                    )
            for request, unlearner in run.steps:
                for section, name in (("requests", request), ("unlearners", unlearner)):
                    if name not in (SAME, ORIGINAL):
                        self._check(section, name, numbers, run)
                spares = self.request(request).get("spares")
                if spares is not None and spares not in (held_back := self._held_back(run)):
                    raise ConfigError(
                        f"requests.{request}: spares cannot be {spares!r}; {run.dataset} holds back "
                        f"{', '.join(held_back) or 'nothing'}."
                    )

    def _check_untrained(self, run: Run) -> None:
        """Refuse a network that is not trained here and has no published weights, and its retraining."""
        if recipe_of(self.config, run.dataset, run.model)["epochs"]:
            return
        if "pretrained" not in self.config["models"][run.model]:
            raise ConfigError(f"recipes.{run.model}: with 0 epochs it must have published weights; it has none.")
        if self.config["reference"] in (name for _, name in run.steps):
            raise ConfigError(
                f"{run.model} is not trained here (0 epochs), so {self.config['reference']} cannot be run."
            )

    def _held_back(self, run: Run) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.config["datasets"][run.dataset].get("hold_back", {})
        return found

    def _check(self, section: str, name: str, facts: Mapping[str, float], run: Run) -> None:
        grid = grid_of(self.config, name) if section == "unlearners" else {}
        for file, keywords in files_of(self.config, section, name, run.dataset).items():
            valid = method.every_keyword(SECTIONS[section], file)
            for key, value in keywords.items():
                for one in grid.get(key, [value]):
                    if key in valid and (
                        refusal := ranges.parse(valid[key], **facts).refusal(f"{section}.{name}", key, one)
                    ):
                        raise ConfigError(f"{refusal}, on {run.dataset} with {run.model}.")

    def runs(self, paper: str, name: str | None = None) -> list[Run]:
        """The runs behind a table or figure, or behind all of a paper."""
        chosen = [cells for (p, n), cells in self.items.items() if p == paper and name in (None, n)]
        return sorted({run for cells in chosen for cell in cells for run in cell.runs}, key=lambda run: astuple(run))

    def request(self, name: str) -> Mapping[str, Any]:
        """Return a request's entry of the configuration; it is empty for a step that has no request of its own."""
        return {} if name == SAME else self.config["requests"][name]

    def forgets_classes(self, run: Run) -> bool:
        """Whether a run was asked to forget whole classes only, as the files of its requests declare."""
        kinds = [method_of(self.config, "requests", name) for name, _ in run.steps if name != SAME]
        return all(method.literal(method.path("requests", kind), "WHOLE_CLASSES") for kind in kinds)

    def repetitions(self, run: Run) -> int:
        """Return how often a run is repeated: as often as its requests say, else as the scale does.

        Where all repetitions begin from one base model, that model itself is there once.
        """
        return 1 if self._alone(run) else self.asks(run)

    def asks(self, run: Run) -> int:
        """Return how often the requests of a run are chosen, unless they are chosen once."""
        entries = [self.request(name) for name, _ in run.steps if name != SAME]
        return min(int(entry.get("repetitions", self.config["repetitions"])) for entry in entries)

    def once(self, request: str, block: str) -> bool:
        """Whether the repetitions of a block serve the same request, that of repetition 0; tuning has its own."""
        return bool(self.request(request).get("once")) and numbers(block)[0] < self.config["tuning"]["first"]

    def base_of(self, run: Run, number: int) -> int:
        """Return the number of the base model from which a repetition of a run begins.

        It is the repetition's own, unless all begin from one (`shared_base`). Tuning has base models of its own.
        """
        shared = self.shared_base(run)
        return number if shared is None or number >= self.config["tuning"]["first"] else shared

    def shared_base(self, run: Run) -> int | None:
        """Return the base model from which all repetitions of a run begin, if its requests say so: base model 0
        (`once`, `one_base`), or one that no table uses (`held_out_base`).
        """
        requests = [self.request(name) for name, _ in run.steps if name != SAME]
        for word, base in (("once", 0), ("one_base", 0), ("held_out_base", int(self.config["tuning"]["first"]))):
            said = {bool(request.get(word)) for request in requests}
            if len(said) > 1:
                raise ConfigError(f"{run.forget}: `{word}` is said of all requests of a chain, or of none.")
            if said == {True}:
                return base
        return None

    def _alone(self, run: Run) -> bool:
        """Whether a run is the one base model from which all repetitions beside it begin."""
        return run.unlearner == ORIGINAL and self.shared_base(run) is not None

    @property
    def held_out(self) -> str:
        """The block of the repetitions that tuning uses and no table does."""
        first, count = (self.config["tuning"][name] for name in ("first", "repetitions"))
        return f"{first}-{first + count - 1}" if count > 1 else str(first)

    def yardsticks(self, run: Run) -> tuple[Run, Run]:
        """Return the runs that a run is measured against: the reference, and the model before unlearning."""
        return run.with_last(self.config["reference"]), replace(run, unlearner=ORIGINAL)

    def tuned_on(self, run: Run) -> Run:
        """Return the run whose search chooses the value of a run: itself, or one on other data or another request."""
        other = self.config["budgets"].get("tuned_on", {}).get(run.dataset)
        if not other:
            return run
        forget = STEP.join(other.get("requests", {}).get(name, name) for name in run.forget.split(STEP))
        return replace(run, dataset=other["dataset"], forget=forget)

    def blocks(self, run: Run) -> list[str]:
        """Return a run's blocks of repetitions; small networks have several repetitions in a block."""
        return blocks(self.repetitions(run), self._size(run.model))

    def within(self, total: int, model: str, block: str) -> str:
        """The block of `total` repetitions of a network that holds those of `block`; itself where none does.

        None holds the one that tuning uses, nor any that no table asks for.
        """
        wanted = set(numbers(block))
        return next((one for one in blocks(total, self._size(model)) if wanted <= set(numbers(one))), block)

    def _size(self, model: str) -> int:
        return int(self.config["block"].get(model, self.config["block"]["other"]))

    def attacks_of(self, run: Run, folder: str = "on_images") -> list[str]:
        """Return the attacks that are evaluated on a run and lie in this folder of attacks/."""
        asked = sorted({cell.attack for cell in self.asked.get(run, [])} - {NO_ATTACK})
        return [name for name in asked if method.stage("attacks", method_of(self.config, "attacks", name)) == folder]

    def metrics_of(self, run: Run) -> list[str]:
        """Return the metrics that some cell needs of a run."""
        return sorted({cell.metric for cell in self.asked.get(run, [])})

    def families_of(self, run: Run) -> list[str]:
        """Return the families of metrics that measure a run, which every run or some cell needs."""
        return sorted(families.asked(self.metrics_of(run), self._families, task_of(self.config, run.model)))

    def needs_of(self, run: Run) -> list[str]:
        """Return which predictions these families need."""
        return sorted({need for name in self.families_of(run) for need in self._families[name].needs})

    def families_that_need(self, what: str) -> list[families.Family]:
        """Return the families of metrics that need a kind of prediction."""
        return [family for family in self._families.values() if what in family.needs]

    @cached_property
    def _families(self) -> dict[str, families.Family]:
        return families.declared()

    def defenses_of(self, run: Run) -> list[str]:
        """Return the defenses behind which a run is evaluated."""
        return sorted({cell.defense for cell in self.asked.get(run, [])} - {NO_DEFENSE})

    def _read(self, paper: str, table: str) -> Iterator[Cell]:
        file = papers.PAPERS / paper / f"{table}.csv"
        figure = self.papers[paper].get("figures", {}).get(table, {})
        rows = papers.rows(file, figure.get("sweep"), self.config)
        only = self._shared(rows) if figure.get("same_data_sets") else None
        seen: dict[tuple[str, ...], int] = {}
        for line, row in rows:
            key = tuple(row[column] for column in papers.IDENTITY)
            if key in seen:
                raise ConfigError(f"{paper}/{table}.csv:{line} repeats the cell of line {seen[key]}.")
            seen[key] = line
            yield self._cell(paper, table, line, row, only)
        yield from self._invited(paper, table, rows)

    def _shared(self, rows: list[tuple[int, dict[str, str]]]) -> set[str]:
        """Return the data sets on which every row can be run at this scale, so that all means are over the same."""
        return set.intersection(
            *({one["dataset"] for one in _each(row) if self._run(one)[0] is not None} for _, row in rows)
        )

    def _invited(self, paper: str, table: str, rows: list[tuple[int, dict[str, str]]]) -> Iterator[Cell]:
        """Yield the cells of methods that the configuration adds to this table with `also_in`, shaped like its own."""
        for name, entry in self.config["unlearners"].items():
            wanted = entry.get("also_in", [])
            if f"{paper}_{table}" not in ([wanted] if isinstance(wanted, str) else wanted):
                continue
            shapes: set[tuple[str, ...]] = set()
            for line, row in rows:
                shape = tuple(row[c] for c in SHAPE)
                if row["unlearner"] == ORIGINAL or row["control"] or row["derive"] or shape in shapes:
                    continue
                shapes.add(shape)
                guest = {"unlearner": name, "published": "", "status": "", "note": "not in the paper"}
                yield self._cell(paper, table, line, row | guest)

    def _cell(
        self, paper: str, table: str, line: int, row: dict[str, str], only: Collection[str] | None = None
    ) -> Cell:
        """Make a cell from a row. only: the data sets over which a mean is taken, where it is not all of them."""
        where = f"config/papers/{paper}/{table}.csv:{line}"
        if row["dataset"].count(SEVERAL) != row["model"].count(SEVERAL):
            raise ConfigError(f"{where}: as many networks as data sets, one for each; both separated by {SEVERAL}.")
        chains = [chain.split(STEP) for chain in row["forget"].split(SEVERAL)]
        asked = [name for first, *later in chains for name in (first, *(one for one in later if one != SAME))]
        for section, names in (
            ("datasets", row["dataset"].split(SEVERAL)),
            ("models", row["model"].split(SEVERAL)),
            ("requests", asked),
        ):
            for name in names:
                if name not in self.config[section]:
                    raise ConfigError(
                        f"{where} has no {section} {name!r}; it takes {', '.join(sorted(self.config[section]))}."
                    )
        try:
            published = float(row["published"]) if row["published"] else None
        except ValueError as error:
            raise ConfigError(f"{where}: published must be a number or empty, found {row['published']!r}.") from error
        left_out = Missing(Why.NOT_RUN, row["dataset"])
        pieces = tuple(self._cell(paper, table, line, part, only) for part in papers.parts(row, where))
        if pieces:
            whole = all(part.runs for part in pieces)
            runs = tuple(dict.fromkeys(run for part in pieces for run in part.runs)) if whole else ()
            missing = next((part.missing for part in pieces if part.missing), None)
            alone = all(part.alone for part in pieces)
            cuts = [cut for part in pieces for cut in part.reductions]
        else:
            found = [
                (one, *(self._run(one) if only is None or one["dataset"] in only else (None, left_out)))
                for one in _each(row)
            ]
            for one, run, _ in found:
                if run:
                    self._check_tasks(where, one, run)
            runs = tuple(dict.fromkeys(run for _, run, _ in found if run))
            missing = None if runs else found[0][2]
            alone = bool(runs) and all(map(self._alone, runs))
            cuts = [cut for one, run, _ in found if run for cut in self._reductions(one, run)]
            cuts += [Reduction(Kind.ABSENT, "dataset", one["dataset"]) for one, run, _ in found if not run]
        about = {name: row[name] for name in COLUMNS if name not in ("published", "status")}
        return Cell(
            paper=paper,
            table=table,
            line=line,
            published=published,
            status=Status(row["status"]),
            runs=runs,
            missing=missing,
            reductions=tuple(dict.fromkeys(cuts)) if runs else (),
            printed_trials=self.papers[paper].get("tables", {}).get(table, {}).get("printed_trials", 1),
            widest_interval=self.config["widest_interval"],
            alone=alone,
            parts=pieces,
            **about,
        )

    def _run(self, row: Mapping[str, str]) -> tuple[Run | None, Missing | None]:
        if row["status"] == Status.NOT_APPLICABLE:
            return None, Missing(Why.NOT_APPLICABLE, row["note"])
        for kind in ("unlearners", "attacks", "defenses"):
            for name in row[kind.removesuffix("s")].split(STEP):
                if name not in (ORIGINAL, NO_ATTACK, NO_DEFENSE) and name not in self.config[kind]:
                    return None, Missing(Why.NOT_BUILT, f"{kind.removesuffix('s')} {name}")
        substitutes = {
            "dataset": self._stand_in("datasets", row["dataset"], row["model"]),
            "model": self._stand_in("models", row["model"], row["dataset"]),
            "forget": self._asked(row["forget"], row["dataset"]),
        }
        absent = [row[kind] for kind, name in substitutes.items() if name is None]
        if absent:
            return None, Missing(Why.NO_DATA if substitutes["dataset"] is None else Why.NOT_RUN, ", ".join(absent))
        return Run(unlearner=row["unlearner"], **{kind: str(name) for kind, name in substitutes.items()}), None

    def _asked(self, forget: str, dataset: str) -> str | None:
        """What stands for the requests of a chain at this scale."""
        found = [name if name == SAME else self._stand_in("requests", name, dataset) for name in forget.split(STEP)]
        return None if None in found else STEP.join(map(str, found))

    def _check_tasks(self, where: str, row: Mapping[str, str], run: Run) -> None:
        """Refuse a row that combines a network with a method or metric that is not for the network's task."""
        asked = [("requests", name) for name, _ in run.steps] + [("unlearners", name) for _, name in run.steps]
        asked.append(("attacks", row["attack"]))
        there = [(kind, name) for kind, name in asked if name in self.config[kind]]
        of = {
            name: method.literal(method.path(kind, method_of(self.config, kind, name)), "TASKS") for kind, name in there
        }
        tuned = [name for kind, name in there if kind == "unlearners" and grid_of(self.config, name)]
        of |= {f"tuning of {name}": method.literal(method.PACKAGE / "tune.py", "TASKS") for name in tuned}
        of |= {name: one.tasks for one in self._families.values() for name in one.metrics if name == row["metric"]}
        task = task_of(self.config, run.model)
        for name, tasks in of.items():
            if tasks is not None and task not in tasks:
                raise ConfigError(f"{where}: {name} is for {', '.join(tasks)}; the network {run.model} is for {task}.")

    def _stand_in(self, kind: str, name: str, beside: str) -> str | None:
        """Return what stands for `name` at this scale: itself, another name, or None.

        beside: the data set on which a network or request stands, or the network of a data set. It may decide.
        """
        substitute = self.config["stand_ins"].get(kind, {}).get(name, name)
        return substitute.get(beside, name) if isinstance(substitute, dict) else substitute

    def _reductions(self, row: Mapping[str, str], run: Run) -> tuple[Reduction, ...]:
        found = [
            Reduction(Kind.STAND_IN, field, row[field], getattr(run, field))
            for field in ("dataset", "model", "forget")
            if row[field] != getattr(run, field)
        ]
        columns = {"requests": "forget", "unlearners": "unlearner", "attacks": "attack", "defenses": "defense"}
        several = [(kind, row[column]) for kind, column in columns.items()]
        for kind, name in ((kind, name) for kind, names in several for name in names.split(STEP)):
            if name in self.config[kind]:
                budgets = self.config["budgets"].get(kind, {})
                backbone = keywords_of(self.config, kind, name).get("backbone", "")
                cuts: dict[str, Any] = {}
                for source in (backbone, method_of(self.config, kind, name), name):
                    # A variant that sets a value itself does not inherit the cut of that value.
                    own = {} if source in (name, backbone) else self.config[kind][name]
                    cuts |= {key: value for key, value in budgets.get(source, {}).items() if key not in own}
                if kind == "unlearners" and grid_of(self.config, name):
                    cuts |= {f"tuning {key}": value for key, value in self.config["budgets"].get("tuning", {}).items()}
                    if (searched := self.tuned_on(run)) != run:
                        asked = "" if searched.forget == run.forget else f", {searched.forget}"
                        cuts["tuned on"] = f"{searched.dataset}{asked}, in as many epochs"
                if kind == "attacks" and "attacked" in self.config["budgets"]:
                    cuts["images"] = f"at most {self.config['budgets']['attacked']}"
                for key, value in cuts.items():
                    if key not in RESERVED[kind]:
                        said = f"of {value['tune']}" if isinstance(value, dict) and "tune" in value else value
                        found.append(Reduction(Kind.BUDGET, name, key, str(said)))
        cut = self.config["budgets"].get(PROBES, {}).get(f"{run.dataset}/{row['attack']}", {})
        found += [Reduction(Kind.BUDGET, row["attack"], key, f"{value} on {run.dataset}") for key, value in cut.items()]
        return tuple(found)


def _each(row: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a row of several data sets or unlearners as rows of one each."""
    return [
        {**row, "dataset": dataset, "model": model, "unlearner": unlearner, "forget": _served(row["forget"], unlearner)}
        for dataset, model in zip(row["dataset"].split(SEVERAL), row["model"].split(SEVERAL), strict=True)
        for unlearner in row["unlearner"].split(SEVERAL)
    ]


def _served(forget: str, unlearner: str) -> str:
    """Return a chain's requests without the last ones that ask nothing new, where its unlearners end before them.

    So in a table what a step begins from stands in one block with what the step made of it.
    """
    requests, steps = forget.split(STEP), 1 if unlearner == ORIGINAL else unlearner.count(STEP) + 1
    while len(requests) > steps and requests[-1] == SAME:
        requests.pop()
    return STEP.join(requests)
