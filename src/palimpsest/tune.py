"""Tuning by a stated rule: the value with which the unlearned model is nearest to the retrained one.

A value that an unlearning paper does not publish, or publishes for another network and batch, must be chosen, and
whoever chooses it decides the table. The rule here is the field's own, the average gap of the tables of SalUn and its
peers. A value is good when the unlearned model differs little from the one retrained without the forget set:

    gap = mean |metric(unlearned) - metric(retrained)|   over forget, retain and test accuracy and the member rate,

all in points of 100, on clean images only, as the mean over repetitions that no table uses. The attacks have no part
in it. The smallest gap wins; on a tie, the value that was tried first. A value that diverges once cannot win.

Every method gets the same number of trials. The first are the values that the configuration names; each further one
looks where the best value so far calls for it: beyond it, by the same ratio, while it is the smallest or largest that
was tried, else between it and its farther neighbour.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Found:
    """What a search found.

    trials: {value, metrics by repetition, gap, status}, in the order in which they were tried; a diverged one has no
    metrics. edge: whether the chosen value is the smallest or largest that was tried although its range goes on, so
    that a better one may lie beyond.
    """

    chosen: Any
    edge: bool
    trials: list[dict[str, Any]]


def search(
    measure: Callable[[Any], Sequence[Measured]],
    retrained: Sequence[Measured],
    start: Sequence[Any],
    trials: int,
    allowed: Callable[[Any], bool] = lambda value: True,
) -> Found:
    """Try `start` and then as many more values as make `trials` in all.

    measure: the METRICS of the models unlearned with a value, one for each held-out repetition, in points of 100; it
    raises `Diverged`. retrained: the same of the retrained models. allowed: whether a value lies in its keyword's
    range. Where every trial diverged the first value is as good as any, and what is made with it shows as diverged in
    the tables.
    """
    tried: dict[Any, dict[str, Any]] = {}

    def gap(value: Any) -> float:
        found = tried[value]["gap"]
        return math.inf if found is None else found

    waiting = list(start)
    while len(tried) < max(trials, len(start)):
        value = waiting.pop(0) if waiting else _next(sorted(tried), min(tried, key=gap), allowed)
        if value is None:
            break
        trial: dict[str, Any] = {"value": value, "metrics": [], "gap": None, "status": "ok"}
        try:
            trial["metrics"] = [dict(one) for one in measure(value)]
        except Diverged as reason:
            trial["status"] = f"diverged: {reason}"
        else:
            pairs = zip(trial["metrics"], retrained, strict=True)
            gaps = [abs(one[metric] - other[metric]) for one, other in pairs for metric in METRICS]
            trial["gap"] = round(sum(gaps) / len(gaps), 6)
        tried[value] = trial
        log.info("%d of %d: %s", len(tried), max(trials, len(start)), trial)
    best = min(tried, key=gap)
    return Found(best, _beyond(sorted(tried), best, allowed) is not None, list(tried.values()))


def _next(tried: Sequence[Any], best: Any, allowed: Callable[[Any], bool]) -> Any:
    """The value to try after `tried`, which ascend; None where there is none."""
    further = _beyond(tried, best, allowed)
    if further is not None or isinstance(best, str | bool):
        return further
    at = tried.index(best)
    sides = [tuple(tried[k : k + 2]) for k in (at - 1, at) if 0 <= k < len(tried) - 1]
    sides.sort(key=lambda side: side[1] / side[0] if side[0] > 0 else math.inf, reverse=True)
    for low, high in sides:
        value = _like(best, math.sqrt(low * high) if low > 0 else (low + high) / 2)
        if low < value < high and allowed(value):
            return value
    return None


def _beyond(tried: Sequence[Any], best: Any, allowed: Callable[[Any], bool]) -> Any:
    """The value beyond `best`, where that is the first or last of `tried`, by the ratio of the last two.

    Where that leaves the range, the square root of the ratio is tried, and the root of that.
    """
    if len(tried) < 2 or isinstance(best, str | bool) or best not in (tried[0], tried[-1]):
        return None
    beside = tried[1] if best == tried[0] else tried[-2]
    for share in (1, 1 / 2, 1 / 4):
        further = best * (best / beside) ** share if beside > 0 and best > 0 else best + share * (best - beside)
        value = _like(best, further)
        if value not in tried and allowed(value):
            return value
    return None


def _like(known: Any, value: float) -> Any:
    """`value` to three digits, and whole where `known` is."""
    return round(value) if isinstance(known, int) else float(f"{value:.3g}")
