"""A method by its file name: its keywords and the hash of its code, read without importing it.

The Snakefile is parsed often (twice a job on a cluster) and must not pay for torch; `ast` reads what it needs.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

# Which function of a file is the method, by folder.
FUNCTIONS = {
    "data": "load",
    "models": "build",
    "unlearners": "unlearn",
    "attacks": "attack",
    "defenses": "purify",
    "forget.py": "choose",
}
# Keyword-only arguments that the workflow fills in; the configuration may not set them.
FILLED_IN = frozenset(
    {"seed", "recipe", "checkpoint", "initial", "indices", "replacement", "penalty", "kept", "requests", "repetition"}
    | {"own_samples", "device", "truth", "shadows"}
)


class MethodError(Exception):
    """A method's file is missing or not of the agreed form."""


def path(kind: str, name: str) -> Path:
    """The file of method `name` in folder `kind` (or `kind` itself where it is a file)."""
    return PACKAGE / kind if kind.endswith(".py") else PACKAGE / kind / f"{name}.py"


def names(kind: str) -> list[str]:
    """All methods of a folder, by the names of their files."""
    return sorted(file.stem for file in (PACKAGE / kind).glob("*.py") if file.stem != "__init__")


def exists(kind: str, name: str) -> bool:
    """Whether `name` is a file of that folder."""
    return name.isidentifier() and path(kind, name).is_file()


@cache
def keywords(kind: str, name: str, function: str = "") -> frozenset[str]:
    """The keyword-only arguments of the method's function, or of another of its file, those filled in included."""
    wanted = function or FUNCTIONS[kind]
    for node in ast.parse(path(kind, name).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == wanted:
            # What stands before `*` is the contract's.
            return frozenset(argument.arg for argument in node.args.kwonlyargs)
    raise MethodError(f"{path(kind, name).relative_to(PACKAGE)} has no function {wanted}()")


@cache
def has(kind: str, name: str, function: str) -> bool:
    """Whether the method's file has another function, as `train_base` of an unlearner or `prepare` of a defense."""
    body = ast.parse(path(kind, name).read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in body)


@cache
def code(*modules: str) -> str:
    """A hash over what `modules` ("unlearners/salun") and every module of this package that they import execute.

    Comments, docstrings and layout do not execute, so a changed sentence changes no hash.
    """
    hasher = hashlib.sha256()
    for file in sorted(_closure([PACKAGE / f"{module}.py" for module in modules])):
        hasher.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + executed(file.read_text()).encode())
    return hasher.hexdigest()[:16]


def executed(source: str) -> str:
    """The syntax tree of `source` as text, without docstrings (nor the places where anything stands)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)


def _closure(files: list[Path]) -> set[Path]:
    seen: set[Path] = set()
    queue = list(files)
    while queue:
        file = queue.pop()
        if file in seen:
            continue
        seen.add(file)
        queue += [imported for imported in _imports(file) if imported not in seen]
    return seen


def _imports(file: Path) -> list[Path]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            base = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
            found += [base / f"{alias.name}.py" for alias in node.names] + [
                base / "__init__.py",
                base.with_suffix(".py"),
            ]
    return [candidate for candidate in found if candidate.is_file() and candidate != PACKAGE / "__init__.py"]
