"""What a cell carries besides its number: its status in the paper, why it is missing, and how it is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SEVERAL = "+"  # between the data sets, or the unlearners, of a row that is their mean
STEP = "-"  # between the steps of a chain
SAME = "same"  # the request of a step that forgets nothing new and only changes the model further
ARROW = " → "


class Status(StrEnum):
    """What the paper prints in a cell: a number (or a blank), a dash, or something that cannot be read.

    A calibrated number is printed too, and a value of ours was chosen so that it comes out.
    """

    PRINTED = ""
    NOT_APPLICABLE = "not_applicable"
    UNREADABLE = "unreadable"
    CALIBRATED = "calibrated"


class Why(StrEnum):
    """Why a cell cannot be computed here."""

    NO_DATA = "no data here"
    NOT_RUN = "not run at this scale"
    NOT_BUILT = "not built yet"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Missing:
    """Why a cell cannot be computed, and what is missing."""

    why: Why
    what: str

    def __str__(self) -> str:
        return f"{self.why}: {self.what}"


class Kind(StrEnum):
    """The ways in which a run can differ from the paper's."""

    STAND_IN = "stand-in"
    BUDGET = "budget"
    ABSENT = "absent"


@dataclass(frozen=True)
class Reduction:
    """One difference between a run and the paper's.

    what: for a stand-in one of dataset, model and forget; for a budget the method whose budget is cut; where a mean
    lacks a data set, dataset. theirs, ours: what the paper has and what stands for it; for a budget the keyword and its
    value here.
    """

    kind: Kind
    what: str
    theirs: str
    ours: str = ""

    def __str__(self) -> str:
        return self.says({})

    def says(self, names: Mapping[str, str]) -> str:
        """Return the reduction in the words of a paper."""
        if self.kind is Kind.STAND_IN:
            return f"{named(self.theirs, names)}{ARROW}{named(self.ours, names)}"
        if self.kind is Kind.BUDGET:
            return f"{named(self.what, names)}: {self.theirs} {self.ours}"
        return f"without {named(self.theirs, names)}"


def named(several: str, names: Mapping[str, str]) -> str:
    """Return the paper's name of something, of each of several, or of each step of a chain."""
    if several in names or not {SEVERAL, STEP} & {*several}:
        return names.get(several, several)
    if SEVERAL in several:
        return ", ".join(named(one, names) for one in several.split(SEVERAL))
    return ", then ".join(named(step, names) for step in several.split(STEP) if step != SAME)
