"""A method by its file name: its keywords, their ranges, what it needs, and the hash of its code, without importing it.

The Snakefile is parsed often (twice a job on a cluster) and must not pay for torch; `ast` reads what it needs. What
stands before `*` in a method's function the workflow gives; what stands after is a hyper-parameter.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parents[1]
# Which function of a file is the method, by folder; further ones, which share its keywords.
FUNCTIONS = {
    "data": ("load",),
    "models": ("build",),
    "requests": ("choose",),
    "unlearners": ("unlearn", "train_base"),
    "attacks": ("attack", "judge"),
    "defenses": ("purify", "prepare"),
}
TRAINING = "training"  # a keyword that holds settings of training; the configuration gives its fields one by one


class MethodError(Exception):
    """A method's file is missing or not of the agreed form."""


def files(kind: str) -> dict[str, Path]:
    """All methods of a folder and of the folders in it, by the names of their files; `_` begins a helper's name."""
    found = sorted((PACKAGE / kind).rglob("*.py"))
    return {file.stem: file for file in found if not file.stem.startswith("_")}


def names(kind: str) -> list[str]:
    """The methods of a folder."""
    return sorted(files(kind))


def exists(kind: str, name: str) -> bool:
    """Whether `name` is a method of that folder."""
    return name in files(kind)


@cache
def path(kind: str, name: str) -> Path:
    """The file of a method; `MethodError` where there is none."""
    if name not in files(kind):
        raise MethodError(f"there is no method {kind}/{name}.py")
    return files(kind)[name]


def module(kind: str, name: str) -> str:
    """A method's module below this package, as `code` takes it: "attacks.on_images.uma"."""
    return ".".join(path(kind, name).relative_to(PACKAGE).with_suffix("").parts)


def stage(kind: str, name: str) -> str:
    """The folder within its folder in which a method lies, as `on_images` of an attack; empty where in none."""
    return path(kind, name).relative_to(PACKAGE / kind).parent.name


@cache
def keywords(kind: str, name: str, function: str = "") -> dict[str, str]:
    """The keywords of a method's function (its first, where none is named), each with its annotation as text."""
    wanted = function or FUNCTIONS[kind][0]
    node = _function(kind, name, wanted)
    if node is None:
        raise MethodError(f"{path(kind, name).relative_to(PACKAGE)} has no function {wanted}()")
    found = {argument.arg: ast.unparse(argument.annotation or ast.Constant("")) for argument in node.args.kwonlyargs}
    return {key: text for key, text in found.items() if key != TRAINING} | (settings() if TRAINING in found else {})


@cache
def every_keyword(kind: str, name: str) -> dict[str, str]:
    """The keywords of all functions of a method's file that are one of its folder's."""
    return {
        k: v
        for function in FUNCTIONS[kind]
        if has(kind, name, function)
        for k, v in keywords(kind, name, function).items()
    }


@cache
def has(kind: str, name: str, function: str) -> bool:
    """Whether the method's file has another function, as `train_base` of an unlearner or `prepare` of a defense."""
    return _function(kind, name, function) is not None


@cache
def needs(kind: str, name: str) -> tuple[str, ...]:
    """What a method's file says that it needs of the workflow: `NEEDS = ("model",)`."""
    return tuple(literal(path(kind, name), "NEEDS") or ())


def trains(kind: str, name: str) -> bool:
    """Whether a method has settings of training."""
    node = _function(kind, name, FUNCTIONS[kind][0])
    return node is not None and TRAINING in {argument.arg for argument in node.args.kwonlyargs}


@cache
def literal(file: Path, name: str) -> Any:
    """The value of a plain assignment in a module, None where there is none."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    return None


@cache
def settings() -> dict[str, str]:
    """The fields of `train.Recipe`, which a method with `training` takes one by one, with their annotations."""
    for node in ast.parse((PACKAGE / "train.py").read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == "Recipe":
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            return {ast.unparse(item.target): ast.unparse(item.annotation) for item in fields}
    raise MethodError("train.py has no class Recipe")


@cache
def _function(kind: str, name: str, function: str) -> ast.FunctionDef | None:
    body = ast.parse(path(kind, name).read_text()).body
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == function), None)


@cache
def code(*modules: str) -> str:
    """A hash over what `modules` and every module of this package that they import execute.

    modules: as `module` names them, without the package ("unlearners.salun"), or files below the project's root
    ("workflow/scripts/train.py"). Comments, docstrings and layout do not execute: a changed sentence changes no hash.
    """
    hasher = hashlib.sha256()
    here = [ROOT / name if name.endswith(".py") else PACKAGE / f"{name.replace('.', '/')}.py" for name in modules]
    imported = _closure([file for file, name in zip(here, modules, strict=True) if not name.endswith(".py")])
    for file in sorted({*imported, *here}):
        hasher.update(str(file.relative_to(ROOT)).encode() + b"\0" + executed(file.read_text()).encode())
    return hasher.hexdigest()[:16]


@cache
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
        if file not in seen:
            seen.add(file)
            queue += _imports(file)
    return seen


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    """The files of this package that a module imports, wherever in it; not those that only its types are of."""
    tree = ast.parse(file.read_text())
    typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    only_types = {inner for node in typing for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in only_types and (node.module or "").startswith(PACKAGE.name):
            base = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
            for alias in node.names:
                found += [base / f"{alias.name}.py", base / alias.name / "__init__.py"]
            found += [base.with_suffix(".py"), *(folder / "__init__.py" for folder in (base, *base.parents))]
    return tuple(file for file in found if file.is_file() and file != PACKAGE / "__init__.py")
