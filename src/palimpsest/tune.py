"""Tuning by a stated rule: the value of a grid with which the unlearned model is nearest to the retrained one.

A value that an unlearning paper does not publish must be chosen, and whoever chooses it decides the table. The rule
here is the field's own, the average gap of the tables of SalUn and its peers. A value is good when the unlearned model
differs little from the one retrained without the forget set:

    gap = mean |metric(unlearned) - metric(retrained)|   over forget, retain and test accuracy and the member rate,

all in points of 100, on clean images only and on a repetition that no table uses. The attacks have no part in it. The
smallest gap wins; on a tie, the value that stands first in the grid. A value whose training diverges cannot win.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from palimpsest import membership
from palimpsest.data import Images, Samples
from palimpsest.models import Diverged, Network, predict

TASKS = ("classification",)

log = logging.getLogger(__name__)

METRICS = ("forget_accuracy", "retain_accuracy", "test_accuracy_retained", "member_rate")
Measured = Mapping[str, float]


@dataclass(frozen=True)
class Clean:
    """Softmax probabilities (N, K) and labels (N,) on clean images, on the CPU."""

    forget: torch.Tensor
    forget_labels: torch.Tensor
    retain: torch.Tensor
    retain_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @property
    def test_retained(self) -> torch.Tensor:
        return torch.isin(self.test_labels, self.retain_labels.unique())


def clean(model: Network, images: Images, forget: Samples, retain: Samples) -> dict[str, float]:
    """Return the METRICS of `model`, each in points of 100; images and model lie on one device.

    Raises `Diverged` where the model's outputs are not finite.
    """
    sets = (forget, retain, Samples(images.test_images, images.test_labels))
    found = Clean(*(t.cpu() for part in sets for t in (predict(model, part.images), part.labels)))
    known = found.test_retained

    def accuracy(answers: torch.Tensor, labels: torch.Tensor) -> float:
        return (answers.argmax(1) == labels).double().mean().item() * 100

    points = {
        "forget_accuracy": accuracy(found.forget, found.forget_labels),
        "retain_accuracy": accuracy(found.retain, found.retain_labels),
        "test_accuracy_retained": accuracy(found.test[known], found.test_labels[known]),
    }
    members, others, asked = (
        answers.gather(1, labels[:, None]).squeeze(1)
        for answers, labels in (
            (found.retain, found.retain_labels),
            (found.test[known], found.test_labels[known]),
            (found.forget, found.forget_labels),
        )
    )
    rate = round(membership.train(members, found.retain_labels, others)(asked), 6)
    return {name: round(value, 6) for name, value in points.items()} | {"member_rate": 100 * rate}


def search(
    unlearn: Callable[..., Network],
    measure: Callable[[Network], Measured],
    retrained: Measured,
    grid: Mapping[str, Sequence[Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the values of `grid` with the smallest gap to `retrained`, and every trial.

    unlearn: takes the grid's keywords. measure: the METRICS of a network, in points of 100. A trial is {values,
    metrics, gap, status}; a diverged one has no metrics. Where every trial diverged the first values are as good as
    any, and what is made with them shows as diverged in the tables.
    """
    trials: list[dict[str, Any]] = []
    for chosen in product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        try:
            found = measure(unlearn(**values))
        except Diverged as reason:
            trials.append({"values": values, "metrics": {}, "gap": None, "status": f"diverged: {reason}"})
        else:
            gap = sum(abs(found[metric] - retrained[metric]) for metric in METRICS) / len(METRICS)
            trials.append({"values": values, "metrics": dict(found), "gap": round(gap, 6), "status": "ok"})
        log.info("%d of %d: %s", len(trials), math.prod(map(len, grid.values())), trials[-1])
    whole = [trial for trial in trials if trial["gap"] is not None]
    best = min(whole, key=lambda trial: trial["gap"]) if whole else trials[0]  # the first of equals
    return best["values"], trials
