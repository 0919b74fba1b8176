"""All measurements of one model: clean, under each attack, and each of these behind each defense.

A measurement is a dictionary `{attack, epsilon, defense, metric, value, unit, n}`; `n` counts the images behind it, or
the decisions of an attack on labels, which has the key `screening` too.
Attacks are scored with the label (decision U-8), the SVC that calls members is fitted once, on clean images. A defense
purifies every image that the model is asked about; the attacks did not know of it, so that what it keeps is the most
that it can keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open

from palimpsest.attacks.on_labels import Judgement
from palimpsest.data import Images, Samples
from palimpsest.metrics import Outputs, accuracy, class_decisions, svc_membership, unit
from palimpsest.models import Diverged, Network, predict

Measurement = dict[str, Any]
SHOWN = 20  # test images a class, of which a figure shows the largest probability
BEFORE = "_before"  # ends the name of a metric of the model before unlearning
Purify = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attacked:
    """What an attack left: see `attacks.on_images.Attacked`; `clean` are the images it started from, `on` which set."""

    on: str
    epsilons: tuple[str, ...]
    images: torch.Tensor
    clean: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


def measure(
    model: Network,
    images: Images,
    forget: Samples,
    retain: Samples,
    attacked: Mapping[str, Attacked],
    defenses: Mapping[str, Purify] = MappingProxyType({}),
    before: Network | None = None,
    members: bool = True,
    shown: bool = False,
) -> Iterator[Measurement]:
    """Every measurement of `model`; images, model and attacked images on one device.

    defenses: by name, `uint8` images to purified ones of the same form. Retain accuracy is measured without only.
    before: the model before unlearning, of which the test accuracies are measured too. members: whether to fit the
    attacker that calls members, which takes long on much data. shown: whether to give some test images' largest
    probabilities one by one, for a figure.
    """
    outputs = Outputs(
        *(
            tensor.cpu()
            for part in (forget, retain, Samples(images.test_images, images.test_labels))
            for tensor in (predict(model, part.images), part.labels)
        )
    )
    attackers = svc_membership.attackers(outputs) if members else {}
    yield from _clean(outputs, attackers)
    if shown:
        classes = outputs.test_labels.unique()
        chosen = torch.cat([(outputs.test_labels == label).nonzero().flatten()[:SHOWN] for label in classes])
        values, labels = outputs.test[chosen].amax(1), outputs.test_labels[chosen]
        gone = torch.isin(classes, outputs.retain_labels, invert=True)
        yield _values("none", "max_probability", values, labels, classes[gone])
    if before:
        known = replace(outputs, test=predict(before, images.test_images).cpu())
        for row in _clean(known, {}):
            if row["metric"].startswith("test_"):
                yield {**row, "metric": row["metric"] + BEFORE}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    yield _row("none", "", "", "parameters", parameters, len(forget.labels))
    yield from _under(model, attacked, attackers)
    for name, purify in defenses.items():
        purified = replace(
            outputs,
            forget=predict(model, purify(forget.images)).cpu(),
            test=predict(model, purify(images.test_images)).cpu(),
        )
        yield from (row for row in _clean(purified, attackers, name) if row["metric"] != "retain_accuracy")
        yield from _under(model, attacked, attackers, name, purify)


def _clean(
    outputs: Outputs, members: Mapping[str, svc_membership.Attacker], defense: str = ""
) -> Iterator[Measurement]:
    sizes = {"forget": len(outputs.forget), "retain": len(outputs.retain), "test": len(outputs.test)}
    sizes["test_accuracy_retained"] = int(outputs.test_retained.sum())
    sizes["test_accuracy_forgotten"] = sizes["test"] - sizes["test_accuracy_retained"]
    found = accuracy.measure(outputs) | {
        name: rate(outputs.forget, outputs.forget_labels) for name, rate in members.items()
    }
    for metric, value in found.items():
        n = sizes.get(metric, sizes.get(metric.split("_")[0], sizes["forget"]))
        yield _row("none", "", defense, metric, value, n)


def _under(
    model: Network,
    attacked: Mapping[str, Attacked],
    members: Mapping[str, svc_membership.Attacker],
    defense: str = "",
    purify: Purify | None = None,
) -> Iterator[Measurement]:
    for name, made in attacked.items():
        labels, targets = made.labels.cpu(), made.targets.cpu()
        for epsilon, pixels, loss in zip(
            ("0", *made.epsilons), (made.clean, *made.images), (None, *made.loss), strict=True
        ):
            probabilities = predict(model, purify(pixels) if purify else pixels).cpu()
            found = {
                f"{made.on}_accuracy": accuracy.accuracy(probabilities, labels),
                "target_accuracy": accuracy.accuracy(probabilities, targets),
            }
            if not purify:  # what the attack itself did
                found["largest_change_levels"] = float((pixels.int() - made.clean.int()).abs().max())
            if loss is not None and not purify:
                found["attack_loss"] = loss.double().mean().item()
            if made.on == "forget":
                found |= {metric: rate(probabilities, labels) for metric, rate in members.items()}
            for metric, value in found.items():
                yield _row(name, epsilon, defense, metric, value, len(labels))


def _row(attack: str, epsilon: str, defense: str, metric: str, value: float, n: int) -> Measurement:
    return {
        "attack": attack,
        "epsilon": epsilon,
        "defense": defense,
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


def decide(
    judge: Callable[..., Judgement],
    found: Mapping[int, Mapping[str, torch.Tensor]],
    truth: Mapping[int, torch.Tensor],
    seeds: Mapping[int, int],
    shadows: Mapping[int, Mapping[str, torch.Tensor]] | None,
    attack: str,
    shown: int = 0,
) -> Iterator[tuple[int, Measurement]]:
    """Measurements of an attack on labels: (repetition, measurement).

    found: what the attack got out of each repetition's server, on the CPU. truth: bool (K,), what each forgot; read by
    judgements that bound the attack, and to score. shadows: what it got out of the servers that a shadow attacker
    retrained, one for each repetition's truth; a server is never its own shadow. shown: the repetition whose values go
    into figures.
    """
    for number, tensors in found.items():
        filled: dict[str, Any] = {"seed": seeds[number]}
        if shadows is not None:
            others = [(shadow, truth[other]) for other, shadow in shadows.items() if other != number]
            filled |= {"truth": truth[number], "shadows": others}
        judged = judge(tensors, **filled)
        for screening, decisions in judged.decisions.items():
            scored = class_decisions.per_trial(decisions[None], truth[number][None])
            for metric, value in scored.items():
                if not value.isnan().any():
                    row = _row(attack, "", "", metric, float(value), len(decisions))
                    yield number, {**row, "screening": screening}
        if number == shown:
            for metric, (values, classes) in judged.values.items():
                yield number, _values(attack, metric, values, classes, truth[number].nonzero().flatten())


def _values(
    attack: str, metric: str, values: torch.Tensor, classes: torch.Tensor, forgotten: torch.Tensor
) -> Measurement:
    """A measurement of many numbers (n,), their mean its value; the class of each, and which classes were forgotten."""
    return {
        **_row(attack, "", "", metric, float(values.double().mean()), len(values)),
        "screening": "",
        "values": [float(f"{value:.5g}") for value in values.tolist()],
        "classes": classes.tolist(),
        "forgotten": forgotten.tolist(),
    }
