"""The contract of every method: what each file of each folder of methods must be, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from palimpsest import ranges

PACKAGE = Path(__file__).parents[1] / "src" / "palimpsest"
# Of each folder the functions of its files with what the workflow gives them; the first is the method itself.
FOLDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {"load": ("root",)},
    "models": {"build": ("classes", "channels"), "pretrained": ("net", "published")},
    "requests": {"choose": ("images", "at")},
    "unlearners": {
        "unlearn": ("model", "forget", "retain", "at"),
        "response": ("model", "forget", "retain", "at"),
        "train_base": ("model", "data", "at"),
    },
    "attacks/on_images": {"attack": ("at",)},
    "attacks/on_labels": {"attack": ("at",), "judge": ("found", "at")},
    "defenses": {"purify": ("images",), "prepare": ("retain", "seed")},
    "metrics": {"measure": ("outputs",)},
    "tasks": {
        "targets": ("samples",),
        "loss": ("outputs", "targets"),
        "answer": ("outputs",),
        "decided": ("outputs",),
        "distance": ("outputs", "wanted", "kind"),
        "kept": ("answers", "samples", "aimed", "brief"),
    },
}
STAGES = [folder for folder in FOLDERS if folder.startswith("attacks/")]
# What the workflow gives some methods and not all, by folder: a file that reads any of it must say so in NEEDS.
NEEDS = {
    "attacks/on_images": {"own_samples", "shadows"},
    "attacks/on_labels": {"own_samples", "shadows", "forgotten"},
    "requests": {"model", "unlearner", "kept"},  # a surrogate may be there or not
}
every_folder = pytest.mark.parametrize("folder", list(FOLDERS))


def methods(folder: str) -> Iterator[tuple[str, ast.Module]]:
    """The files of a folder that are methods; a name that begins with `_` marks a helper."""
    files = sorted(file for file in (PACKAGE / folder).glob("*.py") if not file.stem.startswith("_"))
    assert files
    for file in files:
        yield file.stem, ast.parse(file.read_text())


def called(tree: ast.Module, folder: str) -> dict[str, ast.FunctionDef]:
    """Those functions of a file that the workflow calls."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FOLDERS[folder]}


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Those functions of all of a folder's methods, and where each stands."""
    for name, tree in methods(folder):
        for function in called(tree, folder).values():
            yield f"{folder}/{name}.{function.name}", function


def keywords(function: ast.FunctionDef) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """What stands after `*`, and its default."""
    yield from zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)


@every_folder
def test_every_file_without_the_mark_of_a_helper_is_a_method(folder: str) -> None:
    wanted = next(iter(FOLDERS[folder]))
    without = [name for name, tree in methods(folder) if wanted not in called(tree, folder)]
    assert not without, f"{wanted}() is missing"


@every_folder
def test_what_the_workflow_gives_stands_before_the_star(folder: str) -> None:
    for name, tree in methods(folder):
        contract = dict(FOLDERS[folder])
        if "prepare" in called(tree, folder):  # what it learned, the method gets
            contract["purify"] += ("kept",)
        for function in called(tree, folder).values():
            arguments = function.args
            given = tuple(argument.arg for argument in arguments.posonlyargs + arguments.args)
            assert given == contract[function.name] and not arguments.defaults, (
                f"{folder}/{name}.{function.name}{given}"
            )
            assert arguments.vararg is arguments.kwarg is None, f"{folder}/{name} takes what nobody declared"


def test_a_response_has_the_keywords_and_the_defaults_of_its_method() -> None:
    found = [tree for _, tree in methods("unlearners") if "response" in called(tree, "unlearners")]
    assert len(found) >= 4
    for tree in found:
        both = (called(tree, "unlearners")[name].args for name in ("unlearn", "response"))
        one, other = ([ast.dump(part) for part in (*args.kwonlyargs, *args.kw_defaults)] for args in both)  # type: ignore[arg-type]
        assert one == other


@every_folder
def test_what_stands_after_the_star_has_a_default_and_an_annotation(folder: str) -> None:
    for where, function in functions(folder):
        for argument, default in keywords(function):
            assert default is not None, f"{where}: {argument.arg} has no default"
            assert argument.annotation is not None, f"{where}: {argument.arg} has no annotation"


@every_folder
def test_the_range_of_a_number_and_the_words_of_a_word_stand_beside_it(folder: str) -> None:
    for where, function in functions(folder):
        for argument, _ in keywords(function):
            annotated = [node for node in ast.walk(argument.annotation) if isinstance(node, ast.Subscript)]
            said = {id(part) for node in annotated if ast.unparse(node.value) == "Annotated" for part in ast.walk(node)}
            for node in ast.walk(argument.annotation):
                bare = isinstance(node, ast.Name) and node.id in ("int", "float") and id(node) not in said
                assert not bare, f"{where}: {argument.arg} is any {node.id}"


@every_folder
def test_a_default_lies_in_its_own_range_and_the_workflow_can_read_both(folder: str) -> None:
    for where, function in functions(folder):
        for argument, default in keywords(function):
            try:
                value = ast.literal_eval(default)
            except ValueError:  # made by a call
                continue
            assert argument.annotation is not None, where
            refusal = ranges.parse(ast.unparse(argument.annotation)).refusal(where, argument.arg, value)
            assert not refusal, refusal


@every_folder
def test_ranges_are_checked_at_every_call(folder: str) -> None:
    for where, function in functions(folder):
        marks = [ast.unparse(mark) for mark in function.decorator_list]
        checks = [["checked"], ["unlearner"], ["unlearner(replaces=True)"]]
        assert marks in checks or not function.args.kwonlyargs, where


@every_folder
def test_each_says_what_it_is_in_a_sentence(folder: str) -> None:
    documented = [(f"{folder}/{name}", tree) for name, tree in methods(folder)] + list(functions(folder))
    for where, node in documented:
        first = (ast.get_docstring(node) or "").split("\n\n")[0]
        assert first.rstrip().endswith((".", ":")) and len(first.split()) > 3, f"{where}: {first!r}"


@every_folder
def test_none_knows_of_snakemake_or_of_the_report(folder: str) -> None:
    for file in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                full = names + [f"{names[0]}.{name}" for name in names[1:]]
                foreign = [name for name in full if name.startswith(("palimpsest.pipeline", "palimpsest.report"))]
                assert not foreign and "snakemake" not in names, (
                    f"{folder}/{file.name} imports {foreign or 'snakemake'}"
                )


def test_a_name_of_an_attack_stands_in_one_stage() -> None:
    names = [name for stage in STAGES for name, _ in methods(stage)]
    assert len(names) == len(set(names))


def test_two_functions_of_a_file_share_no_hyper_parameter_that_means_two_things() -> None:
    """A line of the configuration is flat: where both take a name, both get its value."""
    for name, tree in methods("attacks/on_labels"):
        taken = [{one.arg for one, _ in keywords(function)} for function in called(tree, "attacks/on_labels").values()]
        assert len(taken) == 2 and not taken[0] & taken[1], name


@pytest.mark.parametrize("folder", list(NEEDS))
def test_what_a_method_reads_of_what_not_everyone_has_is_what_it_says_it_needs(folder: str) -> None:
    for name, tree in methods(folder):
        said = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["NEEDS"]
        ]
        fields = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        read = {node.attr for node in fields if ast.unparse(node.value) == "at"} & NEEDS[folder]
        assert set(*said) == read and len(said) == bool(read), f"{folder}/{name} says {said} and reads {read}"
        assert all(type(needs) is tuple for needs in said)


def test_an_unlearner_that_reads_the_original_says_that_it_needs_it() -> None:
    for name, tree in methods("unlearners"):
        said = [
            ast.unparse(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS"
        ]
        read = any(isinstance(node, ast.Attribute) and ast.unparse(node) == "at.original" for node in ast.walk(tree))
        assert ("'original'" in "".join(said)) == read, name


@every_folder
def test_what_a_method_says_that_it_reads_are_keywords_of_its_own_that_hold_text(folder: str) -> None:
    for name, tree in methods(folder):
        (function, *_) = called(tree, folder).values()
        taken = {one.arg: ast.unparse(one.annotation) for one, _ in keywords(function) if one.annotation}
        said = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["READS"]
        ]
        opens = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & {"read_text", "read_bytes"}
        if folder == "requests":
            assert [taken.get(one) for one in sum(said, ())] == ["str"] * len(opens), f"{name} says {said}"
        else:
            assert not said, f"{folder}/{name}: only requests have READS"


@pytest.mark.parametrize(("stage", "names"), [("on_images", ["OnImages"]), ("on_labels", ["OnLabels", "Judging"])])
def test_what_the_workflow_gives_cannot_be_changed_by_a_method(stage: str, names: list[str]) -> None:
    tree = ast.parse((PACKAGE / "attacks" / stage / "__init__.py").read_text())
    contexts = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name in names:
        assert [ast.unparse(mark) for mark in contexts[name].decorator_list] == ["dataclass(frozen=True)"]
        assert all(isinstance(field, ast.AnnAssign | ast.Expr) for field in contexts[name].body)
