"""Trace a result through its records, link by link, up to the raw data, and check each hash on the way.

    PYTHONPATH=src python -m palimpsest.pipeline.trace results/demo/rows/digits/small_cnn_narrow/class_0/finetune.jsonl

A link is whole where the file on disk is the one that the record names, and where the record beside that file says that
it was made so. The exit status is 1 where a link is not whole. No network is needed.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline import provenance
from palimpsest.pipeline.configuration import ROOT

SAME, CHANGED, ABSENT, SOURCE = "same", "changed since", "not here", "raw data"


@dataclass(frozen=True)
class Link:
    """One file behind a result, `depth` steps above it; `state` is one of this module's constants."""

    depth: int
    name: str
    state: str
    about: str

    @property
    def whole(self) -> bool:
        """Whether the chain holds here; a file that is not here (models are not in git) breaks nothing."""
        return self.state != CHANGED


def chain(result: Path | str, root: Path = ROOT) -> Iterator[Link]:
    """Yield the links from `result`, an output of some rule below `root`, up to the raw data; each file comes once.

    Raises `FileNotFoundError` where no record names `result`.
    """
    path = Path(os.path.abspath(result))  # not resolved: results may be a link to another disk
    name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    record = _record_of(name, root)
    if record is None:
        raise FileNotFoundError(f"{name} has no record beside it: it is no result of this workflow, or was moved.")
    yield from _links(name, record["outputs"][name], 0, root, set())


def _links(name: str, expected: str, depth: int, root: Path, seen: set[str]) -> Iterator[Link]:
    if name in seen:
        return
    seen.add(name)
    path = root / name
    record = _record_of(name, root)
    found = [provenance.digest(path)] if path.is_file() else []
    said = [record["outputs"][name]] if record else []
    state = CHANGED if {*found, *said} - {expected} else SAME if found else ABSENT
    about = f"{record['rule']}, {record['seconds']:g} s, commit {record['commit']}" if record else "no record"
    yield Link(depth, name, state, about)
    if not record:
        return
    for before, hashed in record["inputs"].items():
        yield from _links(before, hashed, depth + 1, root, seen)
    sources: dict[str, str] = record.get("sources", {})
    if record["rule"] == "data" and not sources:
        yield Link(depth + 1, "the files it was made from", ABSENT, "a record of before these were kept")
    here = provenance.digests(_files(sources, root))
    for source, hashed in sources.items():
        state = ABSENT if source not in here else SOURCE if here[source] == hashed else CHANGED
        yield Link(depth + 1, source, state, hashed[:23])


def _files(sources: Iterable[str], root: Path) -> dict[str, Path]:
    """Return the files behind the names that `provenance.sources` gave, as far as they are here."""
    site = Path(sysconfig.get_path("purelib")).parent
    found: dict[str, Path] = {}
    for name in sources:
        start = site if name.startswith(f"{provenance.PACKAGES}/") else root
        folder = (start / name).parent
        found |= {str(Path(name).parent / file.name): file for file in folder.glob(Path(name).name)}
    return {name: file for name, file in found.items() if file.is_file()}


def _record_of(name: str, root: Path) -> dict[str, Any] | None:
    """Return the record that has `name` among its outputs."""
    for file in sorted((root / name).parent.glob("*.record.json")):
        record: dict[str, Any] = json.loads(file.read_text())
        if name in record["outputs"]:
            return record
    return None


def main(results: list[str]) -> int:
    """Print the chain behind each result and return the exit status, 0 where every link is whole."""
    whole = True
    for result in results:
        try:
            for link in chain(result):
                whole &= link.whole
                sys.stdout.write(f"{'  ' * link.depth}{link.name}  [{link.state}; {link.about}]\n")
        except FileNotFoundError as error:
            whole = False
            sys.stderr.write(f"{error}\n")
    return int(not whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
