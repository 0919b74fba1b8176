"""The member rate: the share of forgotten images that a membership attack calls training images.

The attack (`palimpsest.membership`, SalUn's SVC_MIA) is fitted once, on clean images, and then applied to the forget
images: clean, attacked and purified. In the class scenario it is fitted with the test images of kept classes
(`member_rate`), or with all test images (`member_rate_full_test`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from palimpsest import membership
from palimpsest.metrics import Answers, Number, Outputs

NEEDS = ("forget", "retain", "test")
TASKS = ("classification",)
METRICS = {
    "member_rate": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
    "member_rate_full_test": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
}


class Known(NamedTuple):
    """What `membership.Known` needs. The labels' probabilities are the only column, since the attack uses no other."""

    retain: torch.Tensor
    retain_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    test_retained: torch.Tensor


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield both rates of the forget images, clean, attacked and behind each defense."""
    retain, test = outputs.clean("retain"), outputs.clean("test")
    machines = membership.attackers(Known(*_column(retain), *_column(test), outputs.test_retained))
    for answers in outputs.sets:
        if answers.of == "forget":
            for metric, rate in machines.items():
                yield answers.number(metric, rate(*_column(answers)) if len(answers.labels) else float("nan"))


def _column(answers: Answers) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities of the labels (N, 1), and the number of that column for each sample (N,)."""
    return answers["true"][:, None], torch.zeros_like(answers.labels)
