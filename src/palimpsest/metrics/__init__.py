"""Metrics: each file is one family, says in literals what it measures, and has one function, `measure(outputs)`.

The literals are described in `families`. `measure` takes the `Outputs` of one repetition of a model and yields
`Number`s; a number that is not defined there is nan, or is not yielded. Nothing here asks a network: what there is to
measure has been answered (`predict`), and all of it lies on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from palimpsest.attacks.on_labels import Judgement


class Number(NamedTuple):
    """One number, and where it was measured.

    n: the samples or attempts behind it. screening: how an attack on labels calls a class forgotten. shown: what a
    figure shows one by one, `values` (n,), the class of each, and which classes are `forgotten`.
    """

    metric: str
    value: float
    n: int
    attack: str = "none"
    epsilon: str = ""
    defense: str = ""
    screening: str = ""
    shown: Mapping[str, list[Any]] = MappingProxyType({})

    @classmethod
    def one_by_one(
        cls, attack: str, metric: str, values: torch.Tensor, classes: torch.Tensor, forgotten: torch.Tensor
    ) -> Number:
        """The mean of numbers (n,) that a figure shows one by one; the class (n,) of each; bool (K,) `forgotten`."""
        shown = {
            "values": [float(f"{value:.5g}") for value in values.tolist()],
            "classes": classes.tolist(),
            "forgotten": forgotten.nonzero().flatten().tolist(),
        }
        return cls(metric, float(values.double().mean()), len(values), attack, shown=shown)


@dataclass(frozen=True)
class Answers:
    """What a model said of one set of samples.

    of: `forget`, `retain` or `test`; `before`, the test images asked of the model before unlearning; of attacked images
    the set that the attack was tried on, `forget` or `unseen`. labels: int64 (N,), the samples' own. kept: what the
    model's task keeps of answers, (N, ...) by name (see `kept` in the task's file). Of attacked images also `loss`
    (N,), none at epsilon "0", and `change`, the largest change of a pixel in grey levels.
    """

    of: str
    labels: torch.Tensor
    kept: Mapping[str, torch.Tensor]
    attack: str = "none"
    epsilon: str = ""
    defense: str = ""
    loss: torch.Tensor | None = None
    change: float | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        """One of what is kept."""
        return self.kept[name]

    def only(self, chosen: torch.Tensor) -> Answers:
        """Those of the samples that bool or int64 `chosen` names; of an unattacked set."""
        kept = {name: tensor[chosen] for name, tensor in self.kept.items()}
        return replace(self, labels=self.labels[chosen], kept=kept)

    def number(self, metric: str, value: float) -> Number:
        """A number of all of these samples, where they stand."""
        return Number(metric, value, len(self.labels), self.attack, self.epsilon, self.defense)


@dataclass(frozen=True)
class Outputs:
    """All answers of one repetition of a model.

    sets: every set of samples that it was asked about. forgotten: bool (K,), the classes of which retain has no image.
    parameters: how many weights it has. judged: what each attack on labels says.
    """

    repetition: int
    sets: tuple[Answers, ...]
    forgotten: torch.Tensor
    parameters: int
    judged: Mapping[str, Judgement] = field(default_factory=dict)

    @property
    def there(self) -> set[str]:
        """What there is to measure, as families name it in NEEDS."""
        clean = {one.of for one in self.sets if one.attack == "none"}
        attacked = {"attacked"} if any(one.attack != "none" for one in self.sets) else set()
        return clean | attacked | ({"judged"} if self.judged else set())

    def clean(self, of: str) -> Answers:
        """The answers about a set as it is, with no attack and no defense."""
        return next(one for one in self.sets if (one.of, one.attack, one.defense) == (of, "none", ""))

    def attacked(self) -> Iterator[Answers]:
        """The answers about attacked images, and about those that the attacks started from."""
        return (one for one in self.sets if one.attack != "none")

    @cached_property
    def test_retained(self) -> torch.Tensor:
        """Which test images belong to a class that retain still has: bool (N,)."""
        return ~self.forgotten[self.clean("test").labels]
