"""Every number of a model, computed from its saved outputs: no network is run here, and nothing needs a card.

`predict` wrote the outputs. What attacks on labels extracted from the servers is judged here. Each file of metrics/ is
a family that turns outputs into numbers, and is found because it lies there. A row is a dictionary {repetition, attack,
epsilon, defense, screening, metric, value, unit, kind, bounds, n, status}; a row whose values a figure draws one by one
also has `values`, `classes` and `forgotten`, or `trace`. A repetition that diverged is never scored: its row is
{repetition, status, reason}.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch

from palimpsest import families
from palimpsest.attacks.on_labels import Found, Judgement, Judging
from palimpsest.families import Family, Metric, MetricError
from palimpsest.metrics import Answers, Number, Outputs, Taken
from palimpsest.models import Diverged
from palimpsest.predict import CLEAN, Predicted
from palimpsest.requests import Aim
from palimpsest.seeds import numbers

Row = dict[str, Any]
Judged = Mapping[int, Judgement | Diverged]  # by repetition
Shadows = Sequence[tuple[Found | Diverged, torch.Tensor]]  # what was extracted, and bool (K,), what was forgotten
ROUNDING = 1e-6  # how far a number may lie outside its bounds


def measure(
    predicted: Mapping[int, Predicted],
    wanted: Collection[str] | None = None,
    judged: Mapping[str, Judged] = MappingProxyType({}),
    *,
    seconds: Mapping[str, Mapping[int, Taken]] = MappingProxyType({}),
    task: str = "classification",
    shows: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    folders: Sequence[Path] = (families.FOLDER,),
) -> Iterator[Row]:
    """Yield the rows of a model, in the order of its repetitions, of the families' names and of the sets of samples.

    wanted: names of metrics. Each family that has one of them measures, and so do those that always do, as long as what
    they need is there; None means all families. judged: by attack on labels, what `judge` returned. seconds: what
    `unlearning` and `training` took, by repetition. task: the model's task, as the name of a file of tasks/. shows: the
    METRICS declared in the attacks' own files, for values that they show and no family declares. folders: where
    families are looked for. Raises `MetricError` where a family measures what it does not declare, measures the same
    number twice, or exceeds its bounds.
    """
    every = families.declared(folders)
    known = families.metrics(every) | {name: Metric(**fields) for name, fields in shows.items()}
    chosen = [(family, _module(family)) for family in families.asked(wanted, every, task).values()]
    for repetition, answers in sorted(predicted.items()):
        about = {**answers.header.get("about", {}), "repetition": repetition}
        lost = {name: of[repetition] for name, of in judged.items() if isinstance(of.get(repetition), Diverged)}
        reason = answers.header.get("diverged") or next((f"{name}: {why}" for name, why in lost.items()), "")
        if reason:
            yield {**about, "status": "diverged", "reason": reason}
            continue
        took = {what: of[repetition] for what, of in seconds.items() if repetition in of}
        outputs = replace(outputs_of(repetition, answers, judged), seconds=took)
        seen = set()
        for number in _numbers(outputs, chosen):
            row = _row(number, known)
            key = number[3:7], number.metric
            if key in seen:
                raise MetricError(f"two numbers are called {number.metric} of {number[3:7]}")
            seen.add(key)
            if not math.isnan(number.value):
                yield {**about, **row, "status": "ok"}


def outputs_of(repetition: int, predicted: Predicted, judged: Mapping[str, Judged] = MappingProxyType({})) -> Outputs:
    """Return the outputs of a repetition as families read them, with what attacks on labels decided."""
    tensors, header = predicted
    labels = {of: tensors[f"{of}/labels"] for of in ("forget", "retain", "test")}
    asked: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, kept = name.rpartition("/")
        if kept != "labels":
            asked.setdefault(place, {})[kept] = tensor
    sets = [Answers("retain", labels["retain"], asked["retain"])]
    if "before" in asked:
        sets.append(Answers("before", labels["test"], asked["before"]))
    for defense in ("", *header["defenses"]):
        prefix = f"{defense}:" if defense else ""
        for of in ("forget", "test"):
            sets.append(Answers(of, labels[of], asked[f"{prefix}{of}"], defense=defense))
        for attack, made in header["attacks"].items():
            own = {key: tensors[f"attacked/{attack}/{key}"] for key in ("labels", "loss", "change")}
            whole = asked[f"attacked/{attack}"]
            seen: dict[str, torch.Tensor] = {key: whole[key] for key in ("features", "logits") if key in whole}
            for index, epsilon in enumerate(made["epsilons"]):
                sets.append(
                    Answers(
                        made["on"],
                        own["labels"],
                        asked[f"{prefix}attacked/{attack}/{epsilon}"],
                        attack=attack,
                        epsilon=epsilon,
                        defense=defense,
                        loss=None if epsilon == CLEAN else own["loss"][index - 1],
                        change=float(own["change"][index]),
                        seen=seen,
                    )
                )
    says = {attack: of[repetition] for attack, of in judged.items() if repetition in of}
    return Outputs(
        repetition=repetition,
        sets=tuple(sets),
        forgotten=tensors["forgotten"],
        parameters=int(tensors["parameters"]),
        judged={attack: one for attack, one in says.items() if isinstance(one, Judgement)},
        aim=Aim(tensors["aim/indices"], tensors["aim/labels"]) if "aim/indices" in tensors else None,
        trace=tensors.get("aim/trace"),
        told={name: float(tensor) for name, tensor in asked.get("told", {}).items()},
    )


def judge(
    method: Callable[..., Judgement],
    found: Mapping[int, Found | Diverged],
    truth: Mapping[int, torch.Tensor],
    seeds: Mapping[int, int],
    shadows: Shadows = (),
    own_shadows: Shadows = (),
    **keywords: Any,
) -> dict[int, Judgement | Diverged]:
    """Return what an attack on labels decides about each repetition's server.

    method: the `judge` function of the attack's file; `keywords` are passed to it. found: what the attack extracted
    from each server, on the CPU, or why it extracted nothing. truth: bool (K,), what each server forgot. shadows,
    own_shadows: what the attack extracted from servers of the attacker's, and what these forgot; they are the same for
    every target. What contains a nan is not judged, and serves as nobody's shadow.
    """
    known, own = (
        [(one, gone) for one, gone in ((_checked(one), gone) for one, gone in some) if not isinstance(one, Diverged)]
        for some in (shadows, own_shadows)
    )
    judged: dict[int, Judgement | Diverged] = {}
    for number, tensors in ((number, _checked(one)) for number, one in found.items()):
        if isinstance(tensors, Diverged):
            judged[number] = tensors
        else:
            judged[number] = method(tensors, Judging(seeds[number], truth[number], known, own), **keywords)
    return judged


def taken(records: Iterable[Mapping[str, Any]]) -> dict[int, Taken]:
    """Return by repetition what the method of some jobs took, from their records; a repetition may have none."""
    found = {}
    for record in records:
        device, processor = str(record["device"]), record["processor"]
        if device == "cpu":
            threads = f"{record['threads']} thread{'s' * (record['threads'] > 1)}"
            device = f"{processor['name']}, {processor['instructions']}, {threads}"
        for number, seconds in zip(numbers(record["cell"]["block"]), record.get("method_seconds", ()), strict=False):
            if seconds is not None:
                found[number] = Taken(float(seconds), device)
    return found


def _checked(found: Found | Diverged) -> Found | Diverged:
    """Return `found`, or `Diverged` where a tensor has a nan.

    An infinite loss may stand for a start that led nowhere, beside others that did not; a nan means that nothing was
    found.
    """
    if not isinstance(found, Diverged):
        for name, tensor in found.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                return Diverged(f"what the attack got out of the server has a nan in {name}")
    return found


def _numbers(outputs: Outputs, chosen: Iterable[tuple[Family, ModuleType]]) -> Iterator[Number]:
    for family, module in chosen:
        if outputs.there.issuperset(family.needs):
            for number in module.measure(outputs):
                if number.metric not in family.metrics:
                    raise MetricError(f"{family.file} measures {number.metric!r} and does not declare it in METRICS")
                yield number
    if outputs.repetition == 0:
        for attack, judgement in outputs.judged.items():
            for metric, (values, classes) in judgement.values.items():
                yield Number.one_by_one(attack, metric, values, classes, outputs.forgotten)


def _row(number: Number, known: Mapping[str, Metric]) -> Row:
    metric = known.get(number.metric)
    if metric is None:
        raise MetricError(f"{number.attack} shows {number.metric!r}; declare it in METRICS of the attack's file")
    low, high = metric.bounds
    if (low is not None and number.value < low - ROUNDING) or (high is not None and number.value > high + ROUNDING):
        raise MetricError(f"{number.metric} is {number.value}, beyond its bounds {low} and {high}")
    if math.isinf(number.value):
        raise MetricError(f"{number.metric} is {number.value}")
    return {
        "attack": number.attack,
        "epsilon": number.epsilon,
        "defense": number.defense,
        "screening": number.screening,
        "metric": number.metric,
        "value": round(number.value, 6),
        "unit": metric.unit,
        "kind": metric.kind,
        "bounds": [low, high],
        "n": number.n,
        **({"device": number.device} if number.device else {}),
        **number.shown,
    }


def _module(family: Family) -> ModuleType:
    """Import and return the family's file; one outside of metrics/ is imported by its path."""
    name = f"palimpsest.metrics.{family.file.stem}"
    if family.file.parent == families.FOLDER:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, family.file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
