"""Metrics: each file is one family, declares in literals what it measures, and has one function, `measure(outputs)`.

`families` describes the literals. `measure` takes the `Outputs` of one repetition of a model and yields `Number`s; a
number that is undefined there is nan, or is not yielded. Nothing here runs a network: `predict` has saved all outputs
that are to be measured, and they lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from palimpsest.attacks.on_labels import Judgement
from palimpsest.requests import Aim


class Taken(NamedTuple):
    """Seconds, and the device that took them."""

    seconds: float
    device: str


class Number(NamedTuple):
    """One number, and under which attack and defense it was measured.

    n: how many samples or attempts stand behind it. screening: the decision rule by which an attack on labels calls a
    class forgotten. shown: what a figure draws one by one: `values` (n,), the class of each, and which classes are
    `forgotten`; or a `trace`, the values that the number ran through. device: the processor or card that a number
    belongs to, where it has no meaning without.
    """

    metric: str
    value: float
    n: int
    attack: str = "none"
    epsilon: str = ""
    defense: str = ""
    screening: str = ""
    shown: Mapping[str, list[Any]] = MappingProxyType({})
    device: str = ""

    @classmethod
    def one_by_one(
        cls, attack: str, metric: str, values: torch.Tensor, classes: torch.Tensor, forgotten: torch.Tensor
    ) -> Number:
        """Return the mean of numbers (n,) that a figure draws one by one.

        classes: (n,), the class of each number. forgotten: bool (K,).
        """
        shown = {
            "values": [float(f"{value:.5g}") for value in values.tolist()],
            "classes": classes.tolist(),
            "forgotten": forgotten.nonzero().flatten().tolist(),
        }
        return cls(metric, float(values.double().mean()), len(values), attack, shown=shown)


@dataclass(frozen=True)
class Answers:
    """A model's outputs for one set of samples.

    of: `forget`, `retain` or `test`; `before` means the outputs of the model before unlearning for the test images. For
    attacked images it is the set on which the attack was tried, `forget` or `unseen`. labels: int64 (N,), those of the
    samples. kept: what the model's task keeps of outputs, (N, ...) by name (see `kept` in the task's file). Attacked
    images also have `loss` (N,), None at epsilon "0", and `change`, the largest change of a pixel in grey levels.
    seen: what an observer, a classifier, sees in images that the model answered with: `features` (N, D) and `logits`
    (N, K); and `image_features` (N, D) in the images that the attack started from.
    """

    of: str
    labels: torch.Tensor
    kept: Mapping[str, torch.Tensor]
    attack: str = "none"
    epsilon: str = ""
    defense: str = ""
    loss: torch.Tensor | None = None
    change: float | None = None
    seen: Mapping[str, torch.Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one of the kept tensors."""
        return self.kept[name]

    def only(self, chosen: torch.Tensor) -> Answers:
        """Return the outputs for the samples that `chosen`, bool or int64, selects from a set that was not attacked."""
        kept = {name: tensor[chosen] for name, tensor in self.kept.items()}
        return replace(self, labels=self.labels[chosen], kept=kept)

    def number(self, metric: str, value: float) -> Number:
        """Return a number over all of these samples, with their attack and defense."""
        return Number(metric, value, len(self.labels), self.attack, self.epsilon, self.defense)


@dataclass(frozen=True)
class Outputs:
    """All outputs of one repetition of a model.

    sets: one for each set of samples. forgotten: bool (K,), the classes of which retain has no image. parameters: how
    many weights the network has. judged: what each attack on labels decided. seconds: what `unlearning` and `training`
    took, as far as it is known. aim: what the model's last crafted request is aimed at; trace: float (steps + 1,), what
    its maker lowered (see `requests.Request`). told: by name, what the last unlearner said of its own step.
    """

    repetition: int
    sets: tuple[Answers, ...]
    forgotten: torch.Tensor
    parameters: int
    judged: Mapping[str, Judgement] = field(default_factory=dict)
    seconds: Mapping[str, Taken] = field(default_factory=dict)
    aim: Aim | None = None
    trace: torch.Tensor | None = None
    told: Mapping[str, float] = field(default_factory=dict)

    @property
    def there(self) -> set[str]:
        """What there is to measure, in the words that families use in NEEDS."""
        clean = {one.of for one in self.sets if one.attack == "none"}
        attacked = {"attacked"} if any(one.attack != "none" for one in self.sets) else set()
        observed = {"observed"} if any(one.seen is not None for one in self.sets) else set()
        others = {name for name in ("judged", "seconds", "aim", "told") if getattr(self, name)}
        return clean | attacked | observed | others

    def clean(self, of: str) -> Answers:
        """Return the outputs for a set without attack and without defense."""
        return next(one for one in self.sets if (one.of, one.attack, one.defense) == (of, "none", ""))

    def attacked(self) -> Iterator[Answers]:
        """Return the outputs for attacked images, and for those that the attacks started from."""
        return (one for one in self.sets if one.attack != "none")

    @cached_property
    def test_retained(self) -> torch.Tensor:
        """Which test images belong to a class that retain still has: bool (N,)."""
        return ~self.forgotten[self.clean("test").labels]
