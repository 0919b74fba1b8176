"""A method is known by its file name: this module reads its keywords, their ranges, its needs and the hash of its code.

Nothing is imported. The Snakefile is parsed often (twice a job on a cluster) and must not pay for torch, so `ast` reads
what it needs. In a method's function the workflow gives what stands before `*`; what stands after it is a
hyper-parameter.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parents[1]
# By folder, the function that is the method, and further functions, which share its entry's keywords.
FUNCTIONS = {
    "data": ("load",),
    "models": ("build",),
    "requests": ("choose",),
    "unlearners": ("unlearn", "train_base"),
    "attacks": ("attack", "judge"),
    "defenses": ("purify", "prepare"),
}
TRAINING = "training"  # the keyword that holds a `Recipe`; the configuration sets its fields one by one


class MethodError(Exception):
    """A method's file is missing or not of the agreed form."""


def files(kind: str) -> dict[str, Path]:
    """Return all methods of a folder and of its subfolders, by file name; a name that begins with `_` is a helper's."""
    found = sorted((PACKAGE / kind).rglob("*.py"))
    return {file.stem: file for file in found if not file.stem.startswith("_")}


@cache
def path(kind: str, name: str) -> Path:
    """Return the file of a method; raises `MethodError` where there is none."""
    if name not in files(kind):
        raise MethodError(f"there is no method {kind}/{name}.py")
    return files(kind)[name]


def module(kind: str, name: str) -> str:
    """Return a method's module name below this package, as `code` takes it: "unlearners.finetune"."""
    return ".".join(path(kind, name).relative_to(PACKAGE).with_suffix("").parts)


def stage(kind: str, name: str) -> str:
    """Return the subfolder in which a method lies, such as `on_images` for an attack; empty where there is none."""
    return path(kind, name).relative_to(PACKAGE / kind).parent.name


@cache
def keywords(kind: str, name: str, function: str = "") -> dict[str, str]:
    """Return the keywords of a method's function, by default its first, each with its annotation as text."""
    wanted = function or FUNCTIONS[kind][0]
    node = _function(kind, name, wanted)
    if node is None:
        raise MethodError(f"{path(kind, name).relative_to(PACKAGE)} has no function {wanted}()")
    found = {argument.arg: ast.unparse(argument.annotation or ast.Constant("")) for argument in node.args.kwonlyargs}
    return {key: text for key, text in found.items() if key != TRAINING} | (settings() if TRAINING in found else {})


@cache
def every_keyword(kind: str, name: str) -> dict[str, str]:
    """Return the keywords of all functions of a method's file that its folder knows."""
    return {
        k: v
        for function in FUNCTIONS[kind]
        if has(kind, name, function)
        for k, v in keywords(kind, name, function).items()
    }


@cache
def has(kind: str, name: str, function: str) -> bool:
    """Whether the method's file has this function, such as `train_base` of an unlearner or `prepare` of a defense."""
    return _function(kind, name, function) is not None


@cache
def needs(kind: str, name: str) -> tuple[str, ...]:
    """Return what a method's file declares that it needs of the workflow: `NEEDS = ("model",)`."""
    return tuple(literal(path(kind, name), "NEEDS") or ())


@cache
def literal(file: Path, name: str) -> Any:
    """Return the value of a plain assignment in a module; None where there is none."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    return None


@cache
def settings() -> dict[str, str]:
    """Return the fields of `train.Recipe` with their annotations; a method with `training` takes them one by one."""
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
    """Return a hash of what `modules`, and every module of this package that they import, execute.

    modules: names as `module` gives them, without the package ("unlearners.salun"), or files relative to the project's
    root ("workflow/scripts/train.py"). Comments, docstrings and layout do not execute, so a changed sentence changes no
    hash.
    """
    hasher = hashlib.sha256()
    here = [ROOT / name if name.endswith(".py") else PACKAGE / f"{name.replace('.', '/')}.py" for name in modules]
    imported = _closure([file for file, name in zip(here, modules, strict=True) if not name.endswith(".py")])
    for file in sorted({*imported, *here}):
        hasher.update(str(file.relative_to(ROOT)).encode() + b"\0" + executed(file.read_text()).encode())
    return hasher.hexdigest()[:16]


@cache
def executed(source: str) -> str:
    """Return the syntax tree of `source` as text, without docstrings and without line numbers."""
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
    """Return the files of this package that a module imports, at its top or inside a function."""
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
