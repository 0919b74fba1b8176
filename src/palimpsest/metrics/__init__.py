"""Metrics: each file is one family and has one function, `measure(...) -> {name: number}`.

Names say what is measured and on what; percentages are 0 to 100, rates 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Outputs:
    """Softmax probabilities (N, K) of one model, and labels (N,), for each set of images; all on the CPU.

    forget may be the clean forget images or their attacked versions. The order of retain is data-set order.
    """

    forget: torch.Tensor
    forget_labels: torch.Tensor
    retain: torch.Tensor
    retain_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @property
    def test_retained(self) -> torch.Tensor:
        """Which test images belong to a class that retain still has: bool (N,)."""
        return torch.isin(self.test_labels, self.retain_labels.unique())


UNITS = {
    "accuracy": "%",
    "asr": "%",
    "exact_match": "%",
    "rate": "fraction",
    "f1": "fraction",
    "levels": "grey levels",
    "loss": "nats",
    "parameters": "parameters",
}


def unit(metric: str) -> str:
    """The unit of a metric, by the word in its name."""
    return next((symbol for word, symbol in UNITS.items() if word in metric), "")
