"""A paper is a folder, config/papers/<paper>/: paper.yaml, a CSV for each table and figure, and what the paper alone
has.

The columns of a CSV are `COLUMNS`. `dataset` and `unlearner` may name several (`mnist+svhn`): the row is then the mean
over them. `status` says what the paper has where it has no number: `not_applicable` (a dash), `unreadable`, or nothing;
or that a value of ours was chosen so that the printed number comes out: `calibrated`.
`derive` computes a row's number from other numbers of the same shape:

    minus unlearner=original; control=ours   this number less the one that differs in these fields, by repetition
    over unlearner=retrain                   this number divided by that one, by repetition
    under unlearner=retrain                  that number divided by this one, by repetition
    highest unlearner                        among those named in this column, the one with the highest mean;
    lowest unlearner                         or the lowest; the table also shows which one it is
    highest unlearner minus unlearner=retrain   both: first the best of them, then how it stands to that one
    sd                                       the sample standard deviation of this number over the repetitions
    se                                       the standard error of its mean: sd by the root of their number

A sensitivity study is one line of paper.yaml. Its CSV then names only the entry that is varied:

    sweep: {attack: inversion_white_box, keywords: {restarts: [1, 2, 5, 10]}}

`fill` makes an entry of the configuration for each value, `inversion_white_box_restarts_1` and so on; the value that
the entry itself has keeps its name. Where several keywords change together, `called` is the word that the names carry.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from palimpsest.pipeline.errors import ConfigError, check, unknown
from palimpsest.pipeline.values import SEVERAL, Status

COLUMNS = (
    "dataset", "model", "forget", "unlearner", "attack", "epsilon", "defense", "screening", "metric", "control",
    "derive", "published", "status", "note",
)  # fmt: skip
OPTIONAL = {"epsilon", "defense", "screening", "control", "derive", "status"}  # columns that a table may leave out
IDENTITY = COLUMNS[: COLUMNS.index("published")]  # no two cells of a table agree in all of these
SPREADS = {"sd": 0.0, "se": 0.5}  # the power of their number n by which the sample standard deviation is divided
BEST = {"highest": max, "lowest": min}
HELD = {
    "minus": lambda own, other: own - other,
    "over": lambda own, other: own / other,
    "under": lambda own, other: other / own,
}
DERIVED = re.compile(rf"(?:(?P<best>{'|'.join(BEST)}) (?P<field>\w+))? ?(?:(?P<held>{'|'.join(HELD)}) (?P<rest>.+))?")
PAPERS = Path(__file__).parents[3] / "config" / "papers"


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a paper's `paper.yaml`; raises `ConfigError` for a key or name that nothing understands."""
    about = yaml.safe_load((folder / "paper.yaml").read_text())
    where = f"{folder.name}/paper.yaml"
    check(about, "paper", where, f"{where}: ")
    items = {**about.get("tables", {}), **about.get("figures", {})}
    there = {file.stem for file in folder.glob("*.csv")}
    for name in sorted(items.keys() - there):
        raise ConfigError(f"{where} has {name}, but there is no {name}.csv beside it; there are {_list(there)}.")
    for name in sorted(there - items.keys()):
        raise ConfigError(unknown(where, "table or figure", name, items))
    for name, own in about.get("tables", {}).items():
        if "layout" not in own and "layout" not in about:
            raise ConfigError(f"{where}: {name} has no layout, and the paper has none for all of its tables.")
        labels = [group["label"] for group in (own.get("layout") or about["layout"])["groups"]]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ConfigError(f"{where}: {name} has two groups of columns called {twice[0]!r}.")
    for number, claim in enumerate(about.get("claims", [])):
        table = claim.get("table", [])
        for name in [table] if isinstance(table, str) else table:
            if name not in items:
                raise ConfigError(unknown(f"{where}: claims.{number}", "table or figure", name, items))
    names = about.setdefault("names", {})
    for figure in about.get("figures", {}).values():
        if sweep := figure.get("sweep"):
            _, name, _ = swept(sweep)
            for variant, values in _variants(sweep).items():
                said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())
                names.setdefault(variant, f"{names.get(name, name)} ({said})")
    return dict(about)


def rows(file: Path, sweep: Mapping[str, Any] | None, config: Mapping[str, Any]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV, each with its line number; the rows of a sweep are repeated for each of its values."""
    where = "/".join(file.parts[-2:])
    with file.open(newline="") as handle:
        reader = csv.DictReader(handle)
        there = set(reader.fieldnames or ())
        for stray in sorted(there - set(COLUMNS)):
            raise ConfigError(unknown(where, "column", stray, COLUMNS))
        if absent := set(COLUMNS) - OPTIONAL - there:
            raise ConfigError(f"{where} lacks the columns {_list(absent)}; it may leave out {_list(OPTIONAL)}.")
        found = [(reader.line_num, dict.fromkeys(COLUMNS, "") | row) for row in reader]
    for line, row in found:
        if row["status"] not in set(Status):
            raise ConfigError(f"{where}:{line}: status is {_list({*Status} - {''})} or empty, not {row['status']!r}.")
        parts(row, f"{where}:{line}")
    if sweep:
        field, name, _ = swept(sweep)
        for line, row in found:
            if row[field] != name:
                raise ConfigError(f"{where}:{line}: the sweep is over the {field} {name}, not {row[field]!r}.")
        found = [(line, {**row, field: variant}) for line, row in found for variant in places(sweep, config)]
    return found


def parts(row: Mapping[str, str], where: str = "") -> list[dict[str, str]]:
    """Return the rows from which a derived row is computed, in order; a measured row has none."""
    if not row["derive"]:
        return []
    plain = {**row, "derive": "", "published": ""}
    if row["derive"] in SPREADS:
        return [plain]
    how = DERIVED.fullmatch(row["derive"])
    field, rest = (how["field"] or "", how["rest"] or "") if how else ("", "")
    other = dict(pair.partition("=")[::2] for pair in rest.split("; ")) if rest else {}
    if not how or field in ("dataset", "model") or not {*filter(None, [field]), *other} <= {*IDENTITY[:-1]}:
        raise ConfigError(
            f"{where}: derive cannot be {row['derive']!r}; it takes `minus field=value; field=value`, `over …` or "
            "`under …`, before it `highest field` or `lowest field`, either alone, or `sd` or `se`, and the fields "
            f"{', '.join(IDENTITY[:-1])}."
        )
    each = [{**plain, field: name} for name in row[field].split(SEVERAL)] if field else [plain]
    return each + ([{**plain, **other}] if other else [])


def fill(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with every paper's own part added to it, and the entries of every sweep.

    config/papers/<paper>/config.yaml has the sections of config.yaml, and under `scales` what a scale changes in them.
    Where `config` already has a value, that value stays. Raises `ConfigError` where two papers give one name to
    different things.
    """
    filled, own = deepcopy(dict(config)), dict[str, Any]()
    for file in sorted(PAPERS.glob("*/config.yaml")):
        part = yaml.safe_load(file.read_text())
        scales = part.pop("scales", {})
        known = {scale.stem for scale in (PAPERS.parent / "scales").glob("*.yaml")}
        for stray in sorted(scales.keys() - known):
            raise ConfigError(unknown(f"{file.parent.name}/config.yaml", "scale", stray, known))
        cut = scales.get(config["scale"], {})
        _under(cut, part)
        for section, entries in cut.items():
            _join(
                own.setdefault(section, {}), entries, section, {"stand_ins": 2, "budgets": 1, "plan": 2}.get(section, 0)
            )
    _under(filled, own)
    for file in sorted(PAPERS.glob("*/paper.yaml")):
        for figure in yaml.safe_load(file.read_text()).get("figures", {}).values():
            if sweep := figure.get("sweep"):
                field, name, _ = swept(sweep)
                entries = filled[f"{field}s"]
                if name not in entries:
                    raise ConfigError(unknown(f"{file.parent.name}/paper.yaml: sweep", field, name, entries))
                if not entries.keys() & _variants(sweep):  # a configuration that was filled before has them already
                    entries.update(expand(name, entries[name], sweep))
    return filled


def _under(config: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(config.setdefault(key, value), dict) and isinstance(value, dict):
            _under(config[key], value)


def _join(config: dict[str, Any], other: Mapping[str, Any], where: str, depth: int) -> None:
    """Add a paper's entries to those of the papers before it, so many levels down one by one."""
    for key, value in other.items():
        if depth and isinstance(value, dict) and isinstance(config.setdefault(key, {}), dict):
            _join(config[key], value, f"{where}.{key}", depth - 1)
        elif config.setdefault(key, value) != value:
            raise ConfigError(
                f"{where}.{key} is {config[key]} in one paper and {value} in another: name one otherwise."
            )


def expand(name: str, entry: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a variant of an entry for each value of a sweep that the entry does not have itself."""
    method = entry.get("method", name)
    own = {key: value for key, value in entry.items() if key not in ("method", "also_in")} if method != name else {}
    return {
        variant: {"method": method, **own, **values}
        for variant, values in _variants(sweep).items()
        if any(entry.get(key) != value for key, value in values.items())
    }


def places(sweep: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries of a sweep in its order, each with the value that it stands for: that of the first keyword."""
    field, name, _ = swept(sweep)
    return {
        variant if variant in config[f"{field}s"] else name: next(iter(values.values()))
        for variant, values in _variants(sweep).items()
    }


def swept(sweep: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the column that a sweep varies, the entry that it varies, and the word that its variants' names carry."""
    (field,) = {"attack", "unlearner", "defense"} & set(sweep)
    return field, sweep[field], sweep.get("called", next(iter(sweep["keywords"])))


def _variants(sweep: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the keywords of each variant by its name, `name_keyword_value`: 5 is 5, 0.001 is 1e3 and 0.025 is 2_5e2.

    A name can have neither a point nor a sign.
    """
    _, name, called = swept(sweep)
    found = {}
    for values in zip(*sweep["keywords"].values(), strict=True):
        value = values[0]
        if isinstance(value, float):
            number, _, power = f"{value:e}".partition("e")
            value = int(value) if value == int(value) else f"{float(number):g}e{abs(int(power))}".replace(".", "_")
        found[f"{name}_{called}_{value}"] = dict(zip(sweep["keywords"], values, strict=True))
    return found


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
