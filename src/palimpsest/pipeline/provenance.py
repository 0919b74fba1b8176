"""The record beside each result says what went in, what ran and what came out.

Its hashes of inputs chain upwards, from a table's rows to the raw files. Commit and date stand in the record and never
in a rule's `params`, where they would rerun everything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.pipeline.configuration import ROOT

CODE = {".py", ".pyc", ".so"}
CODE_PATHS = ("Snakefile", "workflow", "config", "src")
PACKAGES = "site-packages"
MANY = 50  # files of one data set that a record names one by one


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@cache
def commit() -> str:
    """Return the commit of the checkout, `-dirty` where it lacks the running code, `unknown` outside of git."""
    try:
        named = _git("describe", "--always", "--abbrev=12")
        # New files count, results do not: a run changes those that git holds.
        return named + "-dirty" * bool(_git("status", "--porcelain", "--", *CODE_PATHS))
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def relative(path: Path | str) -> str:
    """Return a path relative to the project's root, as records and messages have it."""
    full = Path(path).resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else str(path)


@contextmanager
def sources(root: Path | str) -> Iterator[dict[str, str]]:
    """Yield a dictionary that holds, once the block has ended, the hashes of the data files that the block read.

    Files below `root` stand there by their path, with `root` as it was given; those of an installed package by their
    path below site-packages. The interpreter itself reports every file that is opened, so no loader can forget to. (One
    that opens a file in C would go unseen; none does.)
    """
    found: dict[str, str] = {}
    seen: set[Path] = set()
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | bytes | Path):
            mode = arguments[1] or "r"
            if isinstance(mode, str) and not set(mode) & set("wax+"):
                seen.add(Path(os.fsdecode(arguments[0])).absolute())

    sys.addaudithook(hook)  # a hook cannot be removed, it can only do nothing
    try:
        yield found
    finally:
        watching = False
    given, below, packages = Path(root).absolute(), Path(root).resolve(), Path(sysconfig.get_path("purelib")).resolve()
    named: dict[str, Path] = {}
    for path in sorted(seen):
        real = path.resolve()
        if not real.is_file():
            continue
        if path.is_relative_to(given):  # by its own name, even if it is a link to elsewhere
            named[str(Path(root, path.relative_to(given)))] = real
        elif real.is_relative_to(below):
            named[str(Path(root, real.relative_to(below)))] = real
        elif real.is_relative_to(packages) and "data" in real.parent.parts and real.suffix not in CODE:
            named[f"{PACKAGES}/{real.relative_to(packages)}"] = real
    found |= digests(named)


def digests(named: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name; of more than `MANY` files one hash for each folder and suffix.

    The hash of a folder is taken over the sorted lines "name digest" of its files; its name is `folder/*.suffix`.
    """
    each = {name: digest(path) for name, path in sorted(named.items())}
    if len(each) <= MANY:
        return each
    folders: dict[str, list[str]] = {}
    for name, value in each.items():
        folders.setdefault(f"{Path(name).parent}/*{Path(name).suffix}", []).append(f"{name} {value}\n")
    return {
        folder: "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest() for folder, lines in folders.items()
    }


def record(inputs: Iterable[Path | str], outputs: Iterable[Path | str], **facts: Any) -> str:
    """Return, as readable JSON, what made `outputs`; `facts` are what only the job knows (settings, seconds)."""
    content = {
        "outputs": {relative(path): digest(path) for path in outputs},
        "inputs": {relative(path): digest(path) for path in inputs},
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        **facts,
    }
    return json.dumps(content, indent=1, sort_keys=True, default=str) + "\n"


def read_records(results: Path) -> list[dict[str, Any]]:
    """Return the records below `results`, each with the `scale` of its outputs; what cannot be read is left out."""
    found = []
    for file in sorted(results.rglob("*.record.json")):
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError):  # a record that a running job is just writing
            continue
        if {"rule", "cell", "params", "outputs", "seconds", "device"} <= set(record):
            scales = {output.split("/")[1] for output in record["outputs"] if output.startswith("results/")}
            found.append({**record, "scale": next(iter(scales), "")})
    return found
