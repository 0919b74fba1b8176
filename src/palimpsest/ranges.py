"""Ranges of hyper-parameters, written in their annotations: calls and configurations are checked against them.

    ratio: Annotated[float, "[0, 1]"] = 0.5            a number; interval notation, `inf` for no end
    epochs: Annotated[int, "[1, inf)"] = 5             a whole number
    epsilon: Annotated[str, "[0, 1]"] = "8/255"        a fraction as text
    variant: Literal["corrected", "as_released"]       one of these words
    depth: Annotated[int, "[0, inf)"] | None = None    or none
    epsilons: Sequence[Annotated[str, "(0, 1]"]]       each of several

`parse` reads the text of an annotation, so that the configuration can be checked without importing the method. The
plain types `bool`, `int`, `float` and `str` are checked as such; any other annotation admits every value.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, wraps
from numbers import Integral, Real
from operator import add, mul, sub, truediv
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
OPERATORS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv}
KINDS = {"float": "a number", "int": "a whole number", "str": "a fraction as text"}


@dataclass(frozen=True)
class Range:
    """The values that a hyper-parameter takes. says: the same in words. holds: whether a value is one of them."""

    says: str
    holds: Callable[[Any], bool]

    def refusal(self, where: str, name: str, value: object) -> str | None:
        """A sentence for a value outside, "salun: ratio cannot be 5; it takes a number in [0, 1]"; None inside."""
        return None if self.holds(value) else f"{where}: {name} cannot be {value!r}; it takes {self.says}"


@cache
def parse(text: str, **facts: float) -> Range:
    """The range that an annotation's text says. Raises `ValueError` for an interval that cannot be read.

    facts: the values of names in an interval's ends; where one is not given, that end is open.
    """
    return _of(ast.parse(text, mode="eval").body, facts)


def checked(function: F) -> F:
    """`function`, with its keyword-only arguments checked at every call; `ValueError` names the function's file."""
    parameters = inspect.signature(function).parameters.values()
    ranges = {
        one.name: parse(inspect.formatannotation(one.annotation) if type(one.annotation) is not str else one.annotation)
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.annotation is not one.empty
    }

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        for name, value in named.items():
            if name in ranges and (refusal := ranges[name].refusal(file_of(function), name, value)):
                raise ValueError(refusal)
        return function(*given, **named)

    return call  # type: ignore[return-value]


def file_of(function: Callable[..., Any]) -> str:
    """The name by which a method goes: that of its file."""
    return function.__module__.rpartition(".")[2]


def _of(node: ast.expr, facts: Mapping[str, float]) -> Range:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _of(left, facts), _of(right, facts)
            return Range(f"{one.says} or {other.says}", lambda value: one.holds(value) or other.holds(value))
        case ast.Constant(value=None):
            return Range("none", lambda value: value is None)
        case ast.Subscript(value=outer, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            match _name(outer):
                case "Annotated" if len(parts) == 2 and isinstance(parts[1], ast.Constant):
                    return _interval(_name(parts[0]), str(parts[1].value), facts)
                case "Literal":
                    words = [part.value for part in parts if isinstance(part, ast.Constant)]
                    return Range(", ".join(map(str, words)), lambda value: value in words)
                case "Sequence" | "tuple" | "list":
                    each = _of(parts[0], facts)
                    return Range(
                        f"a list, each {each.says}",
                        lambda value: isinstance(value, list | tuple) and all(map(each.holds, value)),
                    )
    match _name(node):
        case "bool":
            return Range("true, false", lambda value: isinstance(value, bool))
        case "str":
            return Range("text", lambda value: isinstance(value, str))
        case "int" | "float" as kind:
            return _interval(kind, "[-inf, inf]", facts)
    return Range("anything", lambda value: True)


def _interval(kind: str, text: str, facts: Mapping[str, float]) -> Range:
    """A range such as `[0, 1)` of numbers, whole numbers or fractions as text."""
    low, _, high = text[1:-1].partition(",")
    if kind not in KINDS or text[:1] not in ("[", "(") or text[-1:] not in ("]", ")"):
        raise ValueError(f"{kind} {text!r} is no range; write float, int or str and an interval such as '[0, 1)'")
    least, most = _end(low, facts, -math.inf), _end(high, facts, math.inf)
    ends = (
        low if least == -math.inf else f"{least:g}",
        high.strip() if most == math.inf else f"{most:g}",
    )
    text = f"{text[0]}{ends[0]}, {ends[1]}{text[-1]}"

    def holds(value: Any) -> bool:
        if kind == "str":
            try:
                value = Fraction(value) if isinstance(value, str) else None
            except (ValueError, ZeroDivisionError):
                return False
        if isinstance(value, bool) or not isinstance(value, Integral if kind == "int" else Real):
            return False
        number = float(value)
        above = number >= least if text[0] == "[" else number > least
        return above and (number <= most if text[-1] == "]" else number < most)

    return Range(f"{KINDS[kind]} in {text}" if text != "[-inf, inf]" else KINDS[kind], holds)


def _end(text: str, facts: Mapping[str, float], open_end: float) -> float:
    """An end of an interval: a number, or a sum or product of numbers and facts; `open_end` where one is not known."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.Name(id="inf"):
                return math.inf
            case ast.Name(id=name):
                return float(facts[name])
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
                return OPERATORS[type(operator)](value(left), value(right))
        raise ValueError(f"{text!r} is no end of an interval")

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except KeyError:
        return open_end


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
