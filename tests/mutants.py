"""How many planted faults the tests find: `make mutants` changes the code in one place at a time and runs its tests.

A mutant is one change to one expression or statement, such as `<` to `<=`, a constant to another, a call left out or a
`with` undone. A sample of them is drawn by a seed. Each runs the tests that entered the changed function, the fastest
first, until one fails: then it is killed. What survives is printed, to be read: either a test is missing, or the change
makes no difference. It takes minutes a hundred mutants, so it is no part of CI.

    python tests/mutants.py --count 200 --seed 0 --only unlearners attacks
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "palimpsest"
# What the product is trusted for: methods, measures and verdicts.
WHERE = (
    *("unlearners", "attacks", "defenses", "metrics", "requests", "tasks"),
    *("train.py", "tune.py", "curvature.py", "membership.py", "measure.py", "predict.py"),
    *("report/claims.py", "report/compare.py", "report/checks.py"),
)
# These start workflows, which import the package in processes of their own.
SLOW = (
    "workflow",
    "crash",
    "stale",
    "slurm",
    "dvc",
    "readme",
    "warm",
    "gpu",
    "progress",
    "plan",
    "provenance",
    "security",
)

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"min": "max", "max": "min", "sum": "mean", "mean": "sum", "argmax": "argmin", "argmin": "argmax"}
NAMES |= {"eval": "train", "minimum": "maximum", "maximum": "minimum", "add_": "sub_", "sub_": "add_"}
DROPPED = {"abs", "sign", "clamp", "clip", "round", "sqrt", "sorted", "reversed", "flip"}  # f(x, ...) becomes x


class Mutant(NamedTuple):
    """One change: `code` is the whole changed file, `says` the changed line, before and after."""

    file: str
    function: int  # the first line of the innermost function around it, 0 outside of any
    line: int
    says: str
    code: str


def changes(node: ast.AST) -> Iterator[Any]:
    """Yield what may stand in place of a node: nodes, or `None` for a statement left out."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield ast.Compare(node.left, [SWAPS[type(op)]()], node.comparators)  # type: ignore[list-item]
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield ast.BinOp(node.left, SWAPS[type(op)](), node.right)  # type: ignore[arg-type]
        case ast.BoolOp(op=op):
            yield ast.BoolOp(SWAPS[type(op)](), node.values)  # type: ignore[arg-type]
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 if value else 1.0)
        case ast.Slice(lower=None, upper=upper) if upper is not None:
            yield ast.Slice(ast.UnaryOp(ast.USub(), upper), None, node.step)
        case ast.Slice(lower=lower, upper=None) if lower is not None:
            yield ast.Slice(None, lower, node.step)
        case ast.If(test=test) if not isinstance(test, ast.Constant):
            yield ast.If(ast.Constant(True), node.body, node.orelse)
            yield ast.If(ast.Constant(False), node.body, node.orelse)
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.With(items=[ast.withitem(optional_vars=None)]):
            yield ast.If(ast.Constant(True), node.body, [])
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in DROPPED | NAMES.keys():
            if name in NAMES:
                yield ast.Call(ast.Attribute(value, NAMES[name], ast.Load()), node.args, node.keywords)
            else:
                library = isinstance(value, ast.Name) and value.id in ("torch", "np", "numpy")
                yield node.args[0] if library else value
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in DROPPED | NAMES.keys():
            yield ast.Call(ast.Name(NAMES[name]), node.args, node.keywords) if name in NAMES else first


def silent(node: ast.AST) -> bool:
    """Whether a change within a node shows nothing: messages, types, and what only saves memory or time."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Call(func=ast.Attribute(attr="no_grad" | "inference_mode" | "detach" | "autocast" | "contiguous")):
            return True
    return False


def mutants(file: Path) -> Iterator[Mutant]:
    """Yield every mutant of one file of the package."""
    source = file.read_text()
    tree = ast.parse(source)
    name = str(file.relative_to(ROOT))
    places: list[tuple[ast.AST, str, int | None, ast.AST, int]] = []

    def walk(node: ast.AST, function: int) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            function = first if isinstance(node, ast.FunctionDef) else function
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            parts = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for index, child in parts:
                if isinstance(child, ast.AST) and not silent(child):
                    places.append((node, field, index, child, function))
                    walk(child, function)

    walk(tree, 0)
    for parent, field, index, child, function in places:
        # Outside of functions stand names, types and what the workflow reads as a literal.
        if not function or not hasattr(child, "lineno"):
            continue
        if isinstance(child, ast.With) and silent(child.items[0].context_expr):
            continue
        for other in changes(child):
            before = ast.unparse(child).splitlines()[0]
            after = ast.unparse(ast.fix_missing_locations(other)).splitlines()[0]
            _put(parent, field, index, other)
            code = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, field, index, child)
            yield Mutant(name, function, child.lineno, f"{before}  ->  {after}", code)


def _put(parent: ast.AST, field: str, index: int | None, child: Any) -> None:
    if index is None:
        setattr(parent, field, child)
    else:
        getattr(parent, field)[index] = child


class Entered:
    """A plugin of pytest: which functions of the package each test enters, and how many seconds it takes."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:
        entered: set[tuple[str, int]] = set()
        self.found[item.nodeid] = {"entered": entered, "seconds": time.perf_counter()}

        def trace(frame: Any, event: str, argument: Any) -> None:
            if frame.f_code.co_filename.startswith(str(PACKAGE)):
                entered.add((str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_firstlineno))

        sys.settrace(trace)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "teardown":
            sys.settrace(None)
            one = self.found[report.nodeid]
            one["seconds"] = time.perf_counter() - one["seconds"]
        if report.failed:
            self.found[report.nodeid]["failed"] = True


def learnt(store: Path) -> dict[tuple[str, int], list[tuple[float, str]]]:
    """Return by function the tests that enter it and their seconds; run them, unless the tree is the one in `store`."""
    import pytest

    state = {str(file): file.stat().st_mtime for folder in ("src", "tests") for file in (ROOT / folder).rglob("*.py")}
    known = json.loads(store.read_text()) if store.is_file() else {}
    if known.get("state") != state:
        plugin = Entered()
        files = [str(f) for f in sorted((ROOT / "tests").glob("test_*.py")) if f.stem.removeprefix("test_") not in SLOW]
        sys.path.insert(0, str(ROOT / "src"))
        pytest.main(["-q", "-p", "no:cacheprovider", *files], plugins=[plugin])
        tests = {
            test: {"seconds": about["seconds"], "entered": sorted(about["entered"])}
            for test, about in plugin.found.items()
            if not about.get("failed")
        }
        known = {"state": state, "tests": tests}
        store.write_text(json.dumps(known))
    found = collections.defaultdict(list)
    for test, about in known["tests"].items():
        for file, line in about["entered"]:
            found[file, line].append((about["seconds"], test))
    return {function: sorted(tests) for function, tests in found.items()}


def survives(mutant: Mutant, tests: list[tuple[float, str]], copy: Path) -> bool:
    """Whether every test passes in a copy of the tree that has the mutant."""
    file = copy / mutant.file
    original = file.read_text()
    file.write_text(mutant.code)
    child = os.fork()
    if not child:
        os.chdir(copy)
        sys.path.insert(0, str(copy / "src"))
        os.environ["PYTHONPATH"] = str(copy / "src")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(test for _, test in tests)])))
    limit = time.monotonic() + 60 + 5 * sum(seconds for seconds, _ in tests)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > limit:  # an endless loop is found too
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.05)
    file.write_text(original)
    return os.waitstatus_to_exitcode(ended[1]) == 0


def main() -> None:
    """Draw mutants, run them, print what survives and how many are killed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="*", default=WHERE, help="files and folders of src/palimpsest")
    options.add_argument("--seconds", type=float, default=60.0, help="of the tests of one mutant, the fastest first")
    asked = options.parse_args()
    import pandas  # noqa: F401  # before the children, which share what is imported
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    torch.set_num_threads(1)
    paths = [PACKAGE / name for name in asked.only]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    every = [mutant for file in files for mutant in mutants(file)]
    drawn = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    store = Path(tempfile.gettempdir()) / "palimpsest-mutants.json"
    child = os.fork()  # the package must not be imported here, or the children would not read their mutant
    if not child:
        learnt(store)
        os._exit(0)
    os.waitpid(child, 0)
    tests = learnt(store)
    alive: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / str(number) for number in range(len(os.sched_getaffinity(0)))]
        for copy in copies:
            copy.mkdir()
            for part in ROOT.iterdir():
                if part.name in ("src", "tests"):
                    shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("__pycache__"))
                elif part.name != ".git":
                    (copy / part.name).symlink_to(part)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        free = list(copies)

        def one(mutant: Mutant) -> None:
            chosen, seconds = [], 0.0
            for took, test in tests.get((mutant.file, mutant.function), []):
                seconds += took
                if chosen and seconds > asked.seconds:
                    break
                chosen.append((took, test))
            copy = free.pop()
            if not chosen or survives(mutant, chosen, copy):
                alive.append(mutant)
                how = "survives" if chosen else "no test enters"
                print(f"{how}: {mutant.file}:{mutant.line}  {mutant.says}", flush=True)
            free.append(copy)

        with ThreadPoolExecutor(len(copies)) as pool:
            for number, _ in enumerate(pool.map(one, drawn), 1):
                if sys.stderr.isatty() or number % 20 == 0:
                    print(f"{number} of {len(drawn)} mutants, {len(alive)} survive", file=sys.stderr, flush=True)
    killed = len(drawn) - len(alive)
    print(f"{killed} of {len(drawn)} mutants killed ({100 * killed / len(drawn):.0f}%), of {len(every)} that there are")


if __name__ == "__main__":
    main()
