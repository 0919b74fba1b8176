"""Classification: a network answers an image with logits (N, K), one for each class, and the target is its label."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from palimpsest.tasks import Shown, at_least_float32

DISTANCES = ("kl", "mse", "bce", "cross_entropy")


def targets(samples: Shown) -> torch.Tensor:
    """The labels, `int64` (N,)."""
    return samples.labels


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of logits (N, K) and labels (N,)."""
    return F.cross_entropy(at_least_float32(outputs), targets)


def answer(outputs: torch.Tensor) -> torch.Tensor:
    """Softmax probabilities (N, K), float32."""
    return torch.softmax(outputs.float(), 1)


def decided(outputs: torch.Tensor) -> torch.Tensor:
    """The most probable class of logits (N, K) or probabilities, `int64` (N,)."""
    return outputs.argmax(1)


def distance(outputs: torch.Tensor, wanted: torch.Tensor, kind: str) -> torch.Tensor:
    """How far logits of f_u (N, K) are from the wanted logits of f (N, K), for each image (N,).

    kind: `kl` (softmax f || softmax f_u), `mse` of logits, `bce` of probabilities, `cross_entropy` to the argmax.
    Raises `ValueError` for another word.
    """
    outputs, wanted = at_least_float32(outputs), at_least_float32(wanted)
    if kind == "kl":
        return F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)
    if kind == "mse":
        return (outputs - wanted).square().mean(1)
    if kind == "bce":
        return F.binary_cross_entropy(outputs.softmax(1), wanted.softmax(1), reduction="none").mean(1)
    if kind == "cross_entropy":
        return F.cross_entropy(outputs, wanted.argmax(1), reduction="none")
    raise ValueError(f"classification: distance cannot be {kind!r}; it takes {', '.join(DISTANCES)}")


def kept(answers: torch.Tensor, samples: Shown, aimed: torch.Tensor | None, brief: bool) -> dict[str, torch.Tensor]:
    """Of probabilities (N, K): `predicted`, `int64` (N,), and `true`, float32 (N,), the probability of the label.

    Not where `brief`: the `probabilities` themselves. Where an attack aimed at classes (N,): whether it `reached` them,
    bool (N,).
    """
    predicted = answers.argmax(1)
    found = {"predicted": predicted, "true": answers.gather(1, samples.labels[:, None]).squeeze(1)}
    found |= {} if brief else {"probabilities": answers}
    return found | ({} if aimed is None else {"reached": predicted == aimed})
