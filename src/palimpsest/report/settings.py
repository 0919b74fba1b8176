"""In which settings the rows of a table differ besides their method, from the resolved configuration.

Two methods that train at different rates differ by more than their names say. A setting that only one of the methods
has is a part of that method and is not named. One that several have is, where their values differ or where each has
its own tuned one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palimpsest.pipeline import method
from palimpsest.pipeline.cells import Cell
from palimpsest.pipeline.configuration import SECTIONS, keywords_of, method_of
from palimpsest.pipeline.values import SEVERAL, STEP

DEFAULT, TUNED = "its default", "a tuned value"


def differ(config: Mapping[str, Any], columns: Sequence[Sequence[Cell]], names: Mapping[str, str]) -> str:
    """Return a sentence on the settings in which a table's rows differ, or nothing; columns: the cells of each.

    Rows differ by unlearner and defense, and by attack where a column holds several.
    """
    said: list[str] = []
    for section, field in (("unlearners", "unlearner"), ("defenses", "defense"), ("attacks", "attack")):
        found: dict[str, None] = {}
        for column in columns:
            parts = [part for cell in column for part in cell.measured]
            here = dict.fromkeys(name for part in parts for name in getattr(part, field).split(SEVERAL))
            entries = [name for several in here for name in several.split(STEP) if name in config[section]]
            found |= dict.fromkeys(entries if field != "attack" or len(set(entries)) > 1 else ())
        said += _differences(config, section, list(found), names)
    return f"Besides their methods rows differ in these settings: {'; '.join(said)}." if said else ""


def _differences(
    config: Mapping[str, Any], section: str, entries: Sequence[str], names: Mapping[str, str]
) -> Iterator[str]:
    own = {name: _flat(keywords_of(config, section, name)) for name in entries}
    files = {name: method_of(config, section, name) for name in entries}
    takes = {name: method.every_keyword(SECTIONS[section], file) for name, file in files.items()}
    for key in dict.fromkeys(key for values in own.values() for key in values):
        having = [name for name in entries if key in own[name] or key in takes[name]]
        # How a network is trained means the same in every method; any other word only in methods of one file.
        training = section == "unlearners" and key in method.settings()
        for file in [None] if training else dict.fromkeys(files[name] for name in having):
            of: dict[str, list[str]] = {}
            for name in having:
                if file in (None, files[name]):
                    of.setdefault(own[name].get(key, DEFAULT), []).append(names.get(name, name))
            if sum(map(len, of.values())) > 1 and (len(of) > 1 or TUNED in of):
                yield f"{key.replace('_', ' ')} is " + ", ".join(
                    f"{value} for {_list(who)}" for value, who in of.items()
                )


def _flat(keywords: Mapping[str, Any]) -> dict[str, str]:
    """Return an entry's keywords as text, those of a method that it wraps among them."""
    inner = keywords.get("settings", {})
    every = {**inner, **{key: value for key, value in keywords.items() if key != "settings"}}
    return {key: TUNED if isinstance(value, dict) and "tune" in value else _text(value) for key, value in every.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " and ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def _list(who: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(who[:-1]), who[-1])))
