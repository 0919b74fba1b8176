"""The member rate as public code has it: the attack's members are the first images of the retain set.

Where a data set is sorted by class these are a few classes only (`palimpsest.membership`); `member_rate` takes as many
of each class.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs, membership

NEEDS = ("forget", "retain", "test")
TASKS = ("classification",)
METRICS = {
    "member_rate_as_released": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
    "member_rate_full_test_as_released": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield both rates of the forget images, clean, attacked and behind each defense."""
    yield from membership.rates(outputs, as_released=True)
