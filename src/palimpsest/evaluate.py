"""All measurements of one model: clean, and under each attack.

A measurement is a dictionary `{attack, epsilon, metric, value, unit, n}`; `n` counts the images behind it. Attacks are
scored with the label (decision U-8), the SVC that calls members is fitted once, on clean images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from palimpsest.data import Images
from palimpsest.metrics import Outputs, accuracy, svc_membership, unit
from palimpsest.models import Diverged, Network, predict
from palimpsest.unlearners import Samples

Measurement = dict[str, Any]


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


def measure(
    model: Network, images: Images, forget: Samples, retain: Samples, attacked: Mapping[str, Attacked]
) -> Iterator[Measurement]:
    """Every measurement of `model`; images, model and attacked images on one device."""
    outputs = Outputs(
        *(
            tensor.cpu()
            for part in (forget, retain, Samples(images.test_images, images.test_labels))
            for tensor in (predict(model, part.images), part.labels)
        )
    )
    members = svc_membership.attackers(outputs)
    sizes = {"forget": len(forget.labels), "retain": len(retain.labels), "test": len(images.test_labels)}
    sizes["test_accuracy_retained"] = int(outputs.test_retained.sum())
    clean = accuracy.measure(outputs) | {
        name: rate(outputs.forget, outputs.forget_labels) for name, rate in members.items()
    }
    for metric, value in clean.items():
        n = sizes.get(metric, sizes.get(metric.split("_")[0], sizes["forget"]))
        yield _row("none", "", metric, value, n)
    for name, made in attacked.items():
        labels, targets = made.labels.cpu(), made.targets.cpu()
        for epsilon, pixels, loss in zip(
            ("0", *made.epsilons), (made.clean, *made.images), (None, *made.loss), strict=True
        ):
            probabilities = predict(model, pixels).cpu()
            found = {
                f"{made.on}_accuracy": accuracy.accuracy(probabilities, labels),
                "target_accuracy": accuracy.accuracy(probabilities, targets),
                "largest_change_levels": float((pixels.int() - made.clean.int()).abs().max()),
            }
            if loss is not None:
                found["attack_loss"] = loss.double().mean().item()
            if made.on == "forget":
                found |= {metric: rate(probabilities, labels) for metric, rate in members.items()}
            for metric, value in found.items():
                yield _row(name, epsilon, metric, value, len(labels))


def _row(attack: str, epsilon: str, metric: str, value: float, n: int) -> Measurement:
    return {
        "attack": attack,
        "epsilon": epsilon,
        "metric": metric,
        "value": round(value, 6),
        "unit": unit(metric),
        "n": n,
    }


def read_attacked(path: Path | str, device: str) -> Attacked:
    """Read what rule `attack` wrote; raises `Diverged` where the attacked model had no weights."""
    with safe_open(str(path), framework="pt", device=device) as file:
        header = file.metadata()
        if "diverged" in header:
            raise Diverged(header["diverged"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    return Attacked(on=header["on"], epsilons=tuple(header["epsilons"].split(",")), **tensors)
