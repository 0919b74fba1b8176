"""Attacks on labels: each file is one method, which asks which classes a server was made to forget. It has

    attack(at: OnLabels, *, ...) -> NamedTuple of tensors      gets out of the server what there is
    judge(found, at: Judging, *, ...) -> Judgement             decides from that, `found` being those tensors by name

What stands after `*` are hyper-parameters, each with its default and, in its annotation, its range; no name stands in
both functions. A file with a third function, `query_of(network)`, is an attack from outside: `at.server` is then what
that makes of the network. A file that needs more than the server says so in a literal that can be read without
importing it, `NEEDS = ("own_samples", "shadows")`: labelled samples of the attacker's, or other servers of which the
attacker knows what they forgot. Without it neither is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch

from palimpsest.data import Samples

Server = TypeVar("Server")


@dataclass(frozen=True)
class OnLabels(Generic[Server]):
    """What the workflow gives an attack on labels.

    server: the unlearned network, or the function that the file's `query_of` makes of it. shape: of an image,
    (C, H, W). classes: how many the server has. seed: of all that the attack draws. own_samples: `uint8` images of
    every class with their labels, on the server's device. device: where an attack from outside computes.
    """

    server: Server
    shape: Sequence[int]
    classes: int
    seed: int
    own_samples: Samples | None = None
    device: torch.device | str = "cpu"


Found = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Judging:
    """What the workflow gives a judgement; all of it lies on the CPU.

    seed: of all that the judgement draws. truth: bool (K,), which classes the server forgot, for judgements that are
    no attack but a bound. shadows: of other servers what the attack found there, and which classes they forgot.
    """

    seed: int
    truth: torch.Tensor
    shadows: Sequence[tuple[Found, torch.Tensor]] = ()


class Judgement(NamedTuple):
    """What an attack on labels says of one server.

    decisions: by the name of the screening, bool (K,), True where a class is judged forgotten. values: what a figure
    shows of it, by name: numbers (n,) and the class (n,) that each belongs to.
    """

    decisions: dict[str, torch.Tensor]
    values: dict[str, tuple[torch.Tensor, torch.Tensor]]
