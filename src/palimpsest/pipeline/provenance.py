"""The record beside each result: what went in, what ran, what came out.

Input hashes chain upwards: the hash of a table's rows leads to the record of the evaluation, from there to the model
and the data it names, and so to the raw files. Commit, date and host stand here and never in a rule's `params`, where
they would rerun everything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from palimpsest.pipeline.configuration import ROOT


def digest(path: Path | str) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@cache
def commit() -> str:
    """The commit of the checkout, `-dirty` where tracked code was changed, `unknown` outside of git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def relative(path: Path | str) -> str:
    """A path below the project's root, as records and messages name it."""
    full = Path(path).resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else str(path)


def record(
    *,
    rule: str,
    wildcards: Mapping[str, str],
    params: Mapping[str, Any],
    inputs: Iterable[Path | str],
    outputs: Iterable[Path | str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that made `outputs`; `facts` are what only the job knows (device, seconds, memory, seeds)."""
    return {
        "rule": rule,
        "cell": dict(wildcards),
        "params": dict(params),
        "outputs": {relative(path): digest(path) for path in outputs},
        "inputs": {relative(path): digest(path) for path in inputs},
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        **facts,
    }


def write(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a record as readable JSON."""
    Path(path).write_text(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n")
