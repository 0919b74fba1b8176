"""The planted faults themselves: what is changed, that it is one thing, and that a test which sees it kills it."""

from __future__ import annotations

import ast
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("a < b", ["a <= b"]),
        ("a + b", ["a - b"]),
        ("a and b", ["a or b"]),
        ("-a", ["a"]),
        ("3", ["4"]),
        ("0.5", ["1.0"]),
        ("a[:5]", ["a[-5:]"]),
        ("a.eval()", ["a.train()"]),
        ("torch.abs(a)", ["a"]),
        ("a.clamp(0, 1)", ["a"]),
        ("sorted(a)", ["a"]),
        ("f(a)", []),
    ],
)
def test_an_expression_is_changed_as_listed(line: str, changed: list[str]) -> None:
    node = ast.parse(line, mode="eval").body
    parts = [node.slice] if isinstance(node, ast.Subscript) else [node]
    found = []
    for part in parts:
        for other in mutants.changes(part):
            shown = ast.Subscript(node.value, other) if isinstance(node, ast.Subscript) else other
            found.append(ast.unparse(ast.fix_missing_locations(shown)))
    assert found == changed


def test_a_call_that_stands_alone_is_left_out_and_a_with_undone() -> None:
    (call,) = ast.parse("model.eval()").body
    assert [type(one) for one in mutants.changes(call)] == [ast.Pass]
    (block,) = ast.parse("with evaluated(model):\n    run()").body
    (undone,) = mutants.changes(block)
    assert "evaluated" not in ast.unparse(ast.fix_missing_locations(undone))


def test_every_mutant_of_a_file_is_another_program_and_the_file_stays_as_it_is() -> None:
    file = mutants.PACKAGE / "tune.py"
    before = ast.unparse(ast.parse(file.read_text()))
    found = list(mutants.mutants(file))
    assert len(found) > 20
    for one in found:
        assert one.code != before and compile(one.code, one.file, "exec")
    assert before == ast.unparse(ast.parse(file.read_text()))


def test_messages_types_and_what_only_saves_time_are_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    file = tmp_path / "one.py"
    file.write_text("def f(a: int = 1) -> None:\n    with torch.no_grad():\n        raise ValueError(1 + 2)\n")
    assert [one.says for one in mutants.mutants(file)] == ["1  ->  2"], "the default alone"


@pytest.mark.parametrize(("asserted", "alive"), [("double(2) == 4", False), ("double(2) > 0", True)])
def test_a_mutant_is_killed_by_a_test_that_sees_it_and_by_no_other(tmp_path: Path, asserted: str, alive: bool) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/planted_module.py").write_text("def double(x):\n    return x * 2\n")
    test = tmp_path / "test_planted.py"
    test.write_text(f"from planted_module import double\n\ndef test_it():\n    assert {asserted}\n")
    code = "def double(x):\n    return x / 2\n"
    mutant = mutants.Mutant("src/planted_module.py", 1, 2, "x * 2  ->  x / 2", code)
    assert mutants.survives(mutant, [(0.1, str(test))], tmp_path) is alive
    assert "x * 2" in (tmp_path / "src/planted_module.py").read_text()
