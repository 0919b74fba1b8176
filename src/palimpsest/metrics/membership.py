"""The member rate: the share of forgotten images that a membership attack calls training images.

The attack (`palimpsest.membership`, SalUn's SVC_MIA) is fitted once, on clean images, and then applied to the forget
images: clean, attacked and purified. In the class scenario it is fitted with the test images of kept classes
(`member_rate`), or with all test images (`member_rate_full_test`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest import membership
from palimpsest.metrics import Number, Outputs

NEEDS = ("forget", "retain", "test")
TASKS = ("classification",)
METRICS = {
    "member_rate": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
    "member_rate_full_test": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield both rates of the forget images, clean, attacked and behind each defense."""
    yield from rates(outputs)


def rates(outputs: Outputs, *, as_released: bool = False) -> Iterator[Number]:
    """Yield both rates by machines that were fitted on members of every class alike, or as public code does it."""
    retain, test = outputs.clean("retain"), outputs.clean("test")
    kept, ending = outputs.test_retained, "_as_released" if as_released else ""

    def fitted(test: torch.Tensor) -> membership.Attacker:
        return membership.train(retain["true"], retain.labels, test, as_released=as_released)

    rate = fitted(test["true"][kept])
    full = rate if bool(kept.all()) else fitted(test["true"])
    for answers in outputs.sets:
        if answers.of == "forget":
            for metric, attacker in ((f"member_rate{ending}", rate), (f"member_rate_full_test{ending}", full)):
                yield answers.number(metric, attacker(answers["true"]) if len(answers.labels) else float("nan"))
