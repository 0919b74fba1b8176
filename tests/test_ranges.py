"""Ranges: what an annotation's text admits, and the one sentence for what it does not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from palimpsest import ranges

SOURCE = Path(__file__).parents[1] / "src"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Annotated[float, '[0, 1]']", [0, 1, 0.5, 1.0], [-1e-9, 1.1, NAN, INF, True, None, "0.5", [0.5]]),
        ("Annotated[float, '(0, inf)']", [1e-9, 1e9], [0, -1, INF, NAN]),
        ("Annotated[float, '[0, inf]']", [0, INF], [NAN, -INF]),
        ("Annotated[int, '[1, inf)']", [1, 10**30], [0, 1.0, True, "1", None]),
        ("typing.Annotated[int, '[1, 3)'] | None", [1, 2, None], [0, 3]),
        ("Annotated[str, '(0, 1]']", ["8/255", "1", "0.5"], ["0", "-8/255", "16/8", "8/0", "x", 0.5]),
        ("Annotated[float, '[0, 16/255]']", [0.06], [0.07]),
        ("Literal['kl', 'mse']", ["kl", "mse"], ["KL", None, 1, ["kl"]]),
        ("Sequence[Annotated[str, '(0, 1]']]", [(), ["8/255", "1"], ("1",)], ["8/255", ["0"], None]),
        ("tuple[Literal['a'], ...]", [("a", "a")], [("b",)]),
        ("bool", [True, False], [0, 1, None, "true"]),
        ("int", [0, -5], [0.5, True, "1"]),
        ("float", [0, 0.5, INF], [NAN, "1"]),
        ("str", ["", "x"], [1, None]),
        ("Mapping[str, Any]", [{}, 5, None], []),
    ],
)
def test_what_an_annotation_admits(text: str, inside: list[Any], outside: list[Any]) -> None:
    found = ranges.parse(text)
    assert [value for value in inside if not found.holds(value)] == []
    assert [value for value in outside if found.holds(value)] == []


def method(
    model: object,
    *,
    ratio: Annotated[float, "[0, 1]"] = 0.5,
    words: Sequence[Literal["a", "b"]] = (),
    depth: Annotated[int, "[1, inf)"] | None = None,
    epsilon: Annotated[str, "(0, 1]"] = "8/255",
) -> float:
    return ratio


def test_a_call_outside_is_refused_in_one_sentence_and_one_inside_goes_through() -> None:
    checked = ranges.checked(method)
    assert checked(None) == 0.5 and checked(None, ratio=1, words=["a"], depth=None) == 1
    for given, sentence in (
        ({"ratio": 5}, "test_ranges: ratio cannot be 5; it takes a number in [0, 1]"),
        ({"words": ["c"]}, "test_ranges: words cannot be ['c']; it takes a list, each a, b"),
        ({"depth": 0}, "test_ranges: depth cannot be 0; it takes a whole number in [1, inf) or none"),
        ({"epsilon": "0"}, "test_ranges: epsilon cannot be '0'; it takes a fraction as text in (0, 1]"),
    ):
        with pytest.raises(ValueError) as refused:
            checked(None, **given)
        assert str(refused.value) == sentence


def test_the_configuration_reads_the_same_from_source_alone() -> None:
    source = "def unlearn(model, *, ratio: Annotated[float, '[0, 1]'] = 0.5): ..."
    (argument,) = ast.parse(source).body[0].args.kwonlyargs  # type: ignore[attr-defined]
    found = ranges.parse(ast.unparse(argument.annotation))
    assert found.refusal("salun", "ratio", 5) == "salun: ratio cannot be 5; it takes a number in [0, 1]"
    assert found.refusal("salun", "ratio", 0.5) is None


@pytest.mark.parametrize(
    "text", ["Annotated[float, '0 to 1']", "Annotated[list, '[0, 1]']", "Annotated[float, '[a.b, 1]']"]
)
def test_an_interval_that_cannot_be_read_is_an_error_of_the_method(text: str) -> None:
    with pytest.raises(ValueError):
        ranges.parse(text)


def test_reading_ranges_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, palimpsest.ranges; assert not {'torch', 'numpy'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})


def test_an_end_may_depend_on_the_data_and_is_open_until_that_is_known() -> None:
    text = 'Annotated[int, "[1, 2 * epochs - 1]"]'
    assert ranges.parse(text).holds(10**6) and not ranges.parse(text).holds(0)
    known = ranges.parse(text, epochs=5)
    assert known.holds(9) and not known.holds(10)
    assert known.refusal("sisa", "slices", 10) == "sisa: slices cannot be 10; it takes a whole number in [1, 9]"
