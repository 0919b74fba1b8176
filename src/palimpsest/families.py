"""The families of metrics and what their files declare, read without importing them.

Each file of metrics/ is one family; a file whose name begins with `_` is a helper. A family declares, as plain
literals,

    METRICS = {"forget_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "forget"}, ...}
    NEEDS = ("forget", "retain")

and has a function `measure(outputs) -> Iterator[Number]` (see `metrics`). `kind` says what a number is, and so which
interval it may have: it is one of `KINDS`. `bounds` are the lowest and the highest possible value, None where there is
none; a proportion has both. `of` is the set of samples that is measured, `least`, where it is given, of how many
samples a number must be to say much. NEEDS lists what must have been predicted
before the family can measure anything: some of `OUTPUTS`. A family that reads what only some tasks keep of outputs
names these tasks, `TASKS = ("classification",)`; without it a family belongs to every task. A family with `ALWAYS =
True` measures every model, so that pages can check what no table prints; any other measures where a cell needs one of
its metrics.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "metrics"
KINDS = {
    "samples": "a proportion of samples",
    "attempts": "a proportion of attempts",
    "mean": "a mean over samples",
    "set": "one number of a whole set",
    "seconds": "seconds, which no second run reproduces",
}
PROPORTIONS = ("samples", "attempts")
# What there may be to measure: what the model, and the model before it, said of a set; what it said under attacks on
# images; what an observer saw in these answers; which classes attacks on labels judged forgotten; how long the jobs
# took; at what a request is aimed; what an unlearner says of its own step.
OUTPUTS = ("forget", "retain", "test", "before", "attacked", "observed", "judged", "seconds", "aim", "told")


class MetricError(Exception):
    """A family does not declare what it measures, or measures what it does not declare; the message names both."""


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric's number; the module describes the fields."""

    unit: str
    kind: str
    bounds: tuple[float | None, float | None]
    of: str
    least: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MetricError(f"kind cannot be {self.kind!r}; it takes {', '.join(KINDS)}")
        if len(self.bounds) != 2 or (self.kind in PROPORTIONS and None in self.bounds):
            raise MetricError("bounds are the lowest and the highest value; a proportion has both")


@dataclass(frozen=True)
class Family:
    """A file of metrics/: its metrics by name, what it needs, whether it measures every model, and of which tasks."""

    file: Path
    metrics: Mapping[str, Metric]
    needs: tuple[str, ...]
    always: bool
    tasks: tuple[str, ...] | None  # None is all


def declared(folders: Iterable[Path] = (FOLDER,)) -> dict[str, Family]:
    """Return the families in these folders by the names of their files, in alphabetical order.

    Raises `MetricError` where a file does not declare what the module describes, or declares another family's metric.
    """
    files = sorted((file for folder in folders for file in folder.glob("[!_]*.py")), key=lambda file: file.stem)
    found: dict[str, Family] = {}
    owners: dict[str, str] = {}
    for file in files:
        if file.stem in found:
            raise MetricError(f"{file} has the name of another family, {found[file.stem].file}")
        found[file.stem] = _read(file)
        for metric in found[file.stem].metrics:
            if metric in owners:
                raise MetricError(f"{file} declares the metric {metric!r}, and so does {owners[metric]}.py")
            owners[metric] = file.stem
    return found


def asked(wanted: Collection[str] | None, families: Mapping[str, Family], task: str) -> dict[str, Family]:
    """Return a task's families that measure always, and those with a wanted metric; all where `wanted` is None."""
    return {
        name: one
        for name, one in families.items()
        if (one.tasks is None or task in one.tasks)
        and (wanted is None or one.always or not one.metrics.keys().isdisjoint(wanted))
    }


def metrics(families: Mapping[str, Family]) -> dict[str, Metric]:
    """Return every metric of these families by its name."""
    return {name: metric for family in families.values() for name, metric in family.metrics.items()}


def _read(file: Path) -> Family:
    literals: dict[str, Any] = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("METRICS", "NEEDS", "ALWAYS", "TASKS"):
                try:
                    literals[name] = ast.literal_eval(node.value)
                except ValueError as error:
                    raise MetricError(f"{file}: {name} must be a plain literal, which is read and not run") from error
    if not literals.keys() >= {"METRICS", "NEEDS"}:
        raise MetricError(f"{file} must declare METRICS and NEEDS")
    if unknown := set(literals["NEEDS"]) - set(OUTPUTS):
        raise MetricError(f"{file}: NEEDS has {', '.join(sorted(unknown))}; it takes {', '.join(OUTPUTS)}")
    found = {}
    for name, fields in literals["METRICS"].items():
        try:
            found[name] = Metric(**fields)
        except (TypeError, MetricError) as error:
            raise MetricError(
                f"{file}: the metric {name!r} is declared with unit, kind, bounds and of: {error}"
            ) from error
    tasks = tuple(literals["TASKS"]) if "TASKS" in literals else None
    return Family(file, found, tuple(literals["NEEDS"]), bool(literals.get("ALWAYS")), tasks)
