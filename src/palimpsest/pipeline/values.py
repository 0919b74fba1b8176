"""What a cell can say of itself besides its number: its status in the paper, why it is missing, how it is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SEVERAL = "+"  # between the data sets, or the unlearners, of a row that is their mean
ARROW = " → "


class Status(StrEnum):
    """What the paper has in the place of a cell: a number (or a blank), a dash, or something that cannot be read."""

    PRINTED = ""
    NOT_APPLICABLE = "not_applicable"
    UNREADABLE = "unreadable"


class Why(StrEnum):
    """Why a cell cannot be computed here."""

    NO_DATA = "no data here"
    NOT_RUN = "not run at this scale"
    NOT_BUILT = "not built yet"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Missing:
    """That a cell cannot be computed, and what is missing."""

    why: Why
    what: str

    def __str__(self) -> str:
        return f"{self.why}: {self.what}"


class Kind(StrEnum):
    """In what a run can differ from the paper's."""

    STAND_IN = "stand-in"
    BUDGET = "budget"
    ABSENT = "absent"


@dataclass(frozen=True)
class Reduction:
    """One difference between a run and the paper's.

    what: dataset, model or forget of a stand-in, the method whose budget is cut, or dataset where a mean lacks one.
    theirs, ours: what the paper has and what stands for it; of a budget the keyword and its value here.
    """

    kind: Kind
    what: str
    theirs: str
    ours: str = ""

    def __str__(self) -> str:
        return self.says({})

    def says(self, names: Mapping[str, str]) -> str:
        """The reduction in the words of a paper."""
        if self.kind is Kind.STAND_IN:
            return f"{named(self.theirs, names)}{ARROW}{named(self.ours, names)}"
        if self.kind is Kind.BUDGET:
            return f"{named(self.what, names)}: {self.theirs} {self.ours}"
        return f"without {named(self.theirs, names)}"


def named(several: str, names: Mapping[str, str]) -> str:
    """What the paper calls something, or each of several."""
    return names.get(several) or ", ".join(names.get(name, name) for name in several.split(SEVERAL))
