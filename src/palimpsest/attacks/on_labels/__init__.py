"""Attacks on labels: each file is one method that finds out which classes a server was made to forget. It has

    attack(at: OnLabels, *, ...) -> NamedTuple of tensors      extracts from the server what the decision needs
    judge(found, at: Judging, *, ...) -> Judgement             decides; `found` has those tensors by name

What stands after `*` are hyper-parameters, each with its default and, in its annotation, its range; the two functions
share no name. A file with a third function, `query_of(network)`, is a black-box attack: `at.server` is then the
function that `query_of` makes of the network. A file that needs more than the server declares it in a literal, which is
read without importing the file: `NEEDS = ("own_samples", "shadows", "forgotten")`. `own_samples` are labelled samples
of the attacker's; `shadows` are other servers, of which the attacker knows what they forgot; `forgotten` is the truth,
for readings of the paper's numbers that are no attacks. A file that does not declare them gets none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

import torch

from palimpsest.data import Samples

Server = TypeVar("Server")


@dataclass(frozen=True)
class OnLabels(Generic[Server]):
    """What the workflow gives an attack on labels.

    server: the unlearned network, or the function that the file's `query_of` makes of it. shape: that of an image, (C,
    H, W). classes: how many the server has. seed: decides everything that the attack draws. own_samples: `uint8` images
    of every class with their labels, on the server's device. forgotten: bool (K,), which classes the server forgot, or
    is said to have; None for a shadow server. device: where a black-box attack computes.
    """

    server: Server
    shape: Sequence[int]
    classes: int
    seed: int
    own_samples: Samples | None = None
    forgotten: torch.Tensor | None = None
    device: torch.device | str = "cpu"


Found = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Judging:
    """What the workflow gives a judgement; all of it lies on the CPU.

    seed: decides everything that the judgement draws. truth: bool (K,), which classes the server forgot, for judgements
    that are bounds and no attacks. shadows: for each shadow server that the attacker retrained, what the attack found
    there and which classes it forgot. own_shadows: the same of shadow servers that the target's own unlearner made.
    """

    seed: int
    truth: torch.Tensor
    shadows: Sequence[tuple[Found, torch.Tensor]] = ()
    own_shadows: Sequence[tuple[Found, torch.Tensor]] = ()


class Judgement(NamedTuple):
    """What an attack on labels decides about one server.

    decisions: by the name of the decision rule, bool (K,), True where a class is judged forgotten. values: what a
    figure draws, by name: numbers (n,) and the class (n,) that each belongs to. heads: by rule, for single heads, bool
    (n,) each: which are called forgotten, and which are of a forgotten class. shadows: by rule, on how many shadow
    servers it rests.
    """

    decisions: dict[str, torch.Tensor]
    values: dict[str, tuple[torch.Tensor, torch.Tensor]]
    heads: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = MappingProxyType({})
    shadows: Mapping[str, int] = MappingProxyType({})
