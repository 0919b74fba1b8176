"""What one model answers, asked once: the clean sets, every attacked one, and each of these behind every defense.

A job on the card writes this down; what is measured on it, by `measure`, needs no network any more. The tensors of one
repetition, by name, N samples and K classes:

    forgotten                      bool (K,), the classes of which retain has no image
    parameters                     int64 (), weights of the network
    forget, test                   float32 (N, K), softmax probabilities; and `{set}/labels`, int64 (N,)
    before                         (N, K), of the test images by the model before unlearning, where that is given
    retain/labels                  int64 (N,), in the order of the data set; of this largest set only
    retain/predicted               int64 (N,), the most probable class, and
    retain/true                    float32 (N,), the probability of the label
    attacked/{attack}/{epsilon}    (N, K), of the images that the attack made; "0" are those that it started from
    attacked/{attack}/labels       int64 (N,); `targets`, int64 (N,), the class that the attack aimed at
    attacked/{attack}/loss         float32 (E, N), the attack's loss for each epsilon but "0"
    attacked/{attack}/change       float32 (E + 1,), the largest change of a pixel, in grey levels
    {defense}:{set}                (N, K), of purified images: `forget`, `test` and `attacked/{attack}/{epsilon}`

A defense purifies every image that the model is asked about; the attacks did not know of it, so that what it keeps is
the most that it can keep. A model or answers that are not finite are no answers: `Diverged`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from palimpsest import numbered
from palimpsest.data import Images, Samples
from palimpsest.models import Diverged, finite, predict

Purify = Callable[[torch.Tensor], torch.Tensor]
CLEAN = "0"  # the epsilon of the images that an attack started from


@dataclass(frozen=True)
class Attacked:
    """What an attack left: see `attacks.uma.Attacked`; `clean` are the images it started from, `on` which set."""

    on: str
    epsilons: tuple[str, ...]
    images: torch.Tensor
    clean: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


class Predicted(NamedTuple):
    """The answers of one repetition: tensors by name on the CPU, and what a reader must know to find them.

    header: `attacks`, by name which set each is on (`on`) and its `epsilons` from "0" on; `defenses`, their names;
    `diverged`, why there are no answers, where there are none. A job adds `about`, what goes into every row, as a seed.
    """

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]


def outputs(
    model: nn.Module,
    images: Images,
    forget: Samples,
    retain: Samples,
    attacked: Mapping[str, Attacked] = MappingProxyType({}),
    defenses: Mapping[str, Purify] = MappingProxyType({}),
    before: nn.Module | None = None,
) -> Predicted:
    """Everything that `model` answers; images, models and attacked images on one device.

    defenses: by name, images to purified ones of the same form. Raises `Diverged` where the model's weights or its
    answers are not finite.
    """
    probabilities = predict(finite(model, "the network's weights"), retain.images, of="the retained images")
    found = {
        "forgotten": _forgotten(images, retain),
        "parameters": torch.tensor(sum(parameter.numel() for parameter in model.parameters())),
        "forget/labels": forget.labels,
        "test/labels": images.test_labels,
        "retain/labels": retain.labels,
        "retain/predicted": probabilities.argmax(1),
        "retain/true": probabilities.gather(1, retain.labels[:, None]).squeeze(1),
    }
    if before:
        found["before"] = predict(before, images.test_images, of="the test images, before unlearning,")
    for attack, made in attacked.items():
        if not bool(torch.isfinite(made.loss).all()):
            raise Diverged(f"the loss of {attack} is not finite")
        name = f"attacked/{attack}"
        every = (made.clean, *made.images)
        found |= {f"{name}/{key}": getattr(made, key) for key in ("labels", "targets", "loss")}
        found[f"{name}/change"] = torch.tensor([_levels(pixels, made.clean) for pixels in every])
    asked = {"forget": forget.images, "test": images.test_images} | {
        f"attacked/{attack}/{epsilon}": pixels
        for attack, made in attacked.items()
        for epsilon, pixels in zip((CLEAN, *made.epsilons), (made.clean, *made.images), strict=True)
    }
    found |= {name: predict(model, pixels, of=name) for name, pixels in asked.items()}
    for defense, purify in defenses.items():
        found |= {
            f"{defense}:{name}": predict(model, purify(pixels), of=f"{name} behind {defense}")
            for name, pixels in asked.items()
        }
    attacks = {name: {"on": made.on, "epsilons": [CLEAN, *made.epsilons]} for name, made in attacked.items()}
    return Predicted(
        {name: tensor.cpu() for name, tensor in found.items()}, {"attacks": attacks, "defenses": list(defenses)}
    )


def diverged(reason: Diverged, images: Images, retain: Samples) -> Predicted:
    """What stands in the place of the answers of a model that has none: which classes it forgot, and why."""
    return Predicted({"forgotten": _forgotten(images, retain).cpu()}, {"diverged": str(reason)})


def save(found: Mapping[int, Predicted], path: Path | str) -> None:
    """Write the answers of several repetitions into one file."""
    numbered.save({n: one.tensors for n, one in found.items()}, path, {n: one.header for n, one in found.items()})


def read(path: Path | str, device: str = "cpu") -> dict[int, Predicted]:
    """By repetition, the answers in a file."""
    return {n: Predicted(numbered.read(path, n, device), header) for n, header in numbered.about(path).items()}


def read_attacked(path: Path | str, number: int, device: str) -> Attacked:
    """What rule `attack` left of a repetition; raises `Diverged` where the attacked model had nothing to attack.

    The tensors are the fields of `Attacked`, the header has `on` and `epsilons`.
    """
    tensors, header = numbered.read(path, number, device), numbered.about(path)[number]
    if "diverged" in header:
        raise Diverged(header["diverged"])
    return Attacked(on=header["on"], epsilons=tuple(header["epsilons"]), **tensors)


def _forgotten(images: Images, retain: Samples) -> torch.Tensor:
    classes = torch.arange(len(images.classes), device=retain.labels.device)
    return torch.isin(classes, retain.labels.unique(), invert=True)


def _levels(pixels: torch.Tensor, clean: torch.Tensor) -> float:
    """The largest difference of two tensors of images, in grey levels; floats span [0, 1]; of no images it is 0."""
    if not pixels.numel():
        return 0.0
    if pixels.dtype == torch.uint8:
        return float((pixels.int() - clean.int()).abs().max())
    return float((pixels - clean).abs().max()) * 255
