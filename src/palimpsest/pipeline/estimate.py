"""What a job will cost, from the records of jobs that ran, and what each figure rests on.

A job's seconds are its own record's where it ran before: *measured*. Else they follow from other jobs' records,
*scaled*: the images that pass through the network, as training would count them, times what an image took there. What
no record tells is a *guess* of the configuration (`plan`), and so is what follows from one.

    seconds = work x seconds an image of this rule, method, network and kind of device
            = work x weight / speed

work: images x (pixels / 32 x 32). The second line stands in where this network never ran so: weight is the trained
images that an image of this rule and method costs, speed the images that the network trains a second.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from palimpsest.pipeline import method
from palimpsest.pipeline.configuration import ConfigError, method_of
from palimpsest.pipeline.plan import Job
from palimpsest.seeds import numbers

MEASURED, SCALED, GUESSED = BASES = ("measured", "scaled", "guess")  # from the best ground to the worst
NETWORK = {"train", "unlearn", "tune", "attack", "probe", "predict"}  # rules whose time is a network's
# Keywords whose product is how often an attack sends its images through the network.
LOOPS = ("steps", "epochs", "restarts", "subsets", "subset_size", "population", "generations")
SIDE = 32  # pixels; speeds are of images of this height and width


@dataclass(frozen=True)
class Amount:
    """Seconds, and what they rest on: one of BASES."""

    value: float
    basis: str


class Costs:
    """What jobs cost under one configuration, from the records of jobs that ran."""

    def __init__(self, config: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        self.config, self.stated = config, config["plan"]
        self.own: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        units: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for record in records:
            rule, cell, asks = record["rule"], record["cell"], record["params"]
            try:
                work = self.work(rule, cell, asks)
            except (KeyError, ConfigError):  # of another time or data set: it does not say what was done
                continue
            device = "cpu" if record["device"] == "cpu" else "gpu"
            self.own[_key(record["scale"], rule, cell, device)].append((work, record["seconds"]))
            units[device, *_kind(rule, cell, asks)].append(record["seconds"] / work)
        self.units = {key: statistics.median(values) for key, values in units.items()}

    def seconds(self, job: Job) -> Amount:
        """A job's seconds on the device it asks for."""
        if not job.runs:
            return Amount(0.0, MEASURED)
        work = self.work(job.rule, job.cell, job.asks)
        for done, seconds in self.own.get(_key(self.config["scale"], job.rule, job.cell, job.device), []):
            if math.isclose(done, work):  # and not another budget's
                return Amount(seconds, MEASURED)
        rule, name, model = _kind(job.rule, job.cell, job.asks)
        if (job.device, rule, name, model) in self.units:
            return Amount(work * self.units[job.device, rule, name, model], SCALED)
        weight, speed = self._weight(rule, name), self._speed(job.device, model)
        if not model and job.gpus:
            weight = Amount(weight.value, GUESSED)  # seconds of another kind of device
        return Amount(work * weight.value / speed.value, max(weight.basis, speed.basis, key=BASES.index))

    def work(self, rule: str, cell: Mapping[str, str], asks: Mapping[str, Any]) -> float:
        """Images of 32 x 32 pixels that a job sends through its network; 1 for a job without one."""
        if rule not in NETWORK:
            return 1.0
        if cell["dataset"] not in self.stated["images"]:
            raise ConfigError(
                f"config.yaml: plan.images lacks {cell['dataset']!r}: its train, test, classes and shape."
            )
        data = self.stated["images"][cell["dataset"]]
        _, height, width = data["shape"]
        # One repetition has rule `tune`; records of the first layout, which the laptop's are, say `seed`.
        repeats = len(numbers(cell.get("block", cell.get("seed", "0"))))
        return max(1.0, repeats * self._passes(rule, cell, asks, data) * height * width / SIDE**2)

    def _passes(self, rule: str, cell: Mapping[str, str], asks: Mapping[str, Any], data: Mapping[str, Any]) -> float:
        keywords = asks.get("keywords", {})
        if rule == "train":
            return float(data["train"] * asks["recipe"]["epochs"])
        if rule in ("unlearn", "tune"):
            trials = math.prod(len(values) for values in asks.get("grid", {}).values())
            return float(trials * data["train"] * _epochs(asks["method"], keywords, asks["recipe"]))
        forgotten = sum(self._forgotten(name, data) for name in cell["forget"].split("-"))
        if rule == "attack":
            if asks["on"] == "unseen":  # as many test images, or, of classes, those that there are of them
                classes = method.literal(method.path("requests", self._kind(cell["forget"])), "WHOLE_CLASSES")
                forgotten = min(forgotten, data["test"] * (forgotten / data["train"] if classes else 1))
            return len(keywords.get("epsilons", [0])) * keywords.get("steps", 1) * forgotten
        if rule == "probe":
            images = data["classes"] if "subsets" not in keywords else 1
            return float(images * math.prod(keywords.get(name, 1) for name in LOOPS))
        attacked = len(asks["attacks"]) * (1 + len(asks["defenses"])) * forgotten
        return float(data["train"] + data["test"] + attacked)

    def _kind(self, requests: str) -> str:
        return method_of(self.config, "requests", requests.split("-")[0])

    def _forgotten(self, name: str, data: Mapping[str, Any]) -> float:
        request = self.config["requests"].get(name, {})
        if "count" in request:
            return float(request["count"])
        classes = len(request.get("classes", ())) or request.get("random", 1)
        return float(data["train"] * request.get("share", classes / data["classes"]))

    def _speed(self, device: str, model: str) -> Amount:
        """Images (32 x 32) that a network trains a second; 1 where there is no network."""
        if not model:
            return Amount(1.0, MEASURED)
        if (unit := self.units.get((device, "train", "", model))) is not None:
            return Amount(1 / unit, SCALED)
        entry = self.stated["speed"][device].get(model, self.stated["speed"][device]["other"])
        return Amount(entry["images_per_second"], SCALED if "measured" in entry else GUESSED)

    def _weight(self, rule: str, name: str) -> Amount:
        """What an image costs in a rule and method, in trained images; its seconds where there is no network."""
        if rule == "train":
            return Amount(1.0, SCALED)
        found = [
            unit * speed.value
            for (device, r, n, model), unit in self.units.items()
            if (r, n) == (rule, name) and (speed := self._speed(device, model)).basis != GUESSED
        ]
        if found:
            return Amount(statistics.median(found), SCALED)
        stated = self.stated["weights" if rule in NETWORK else "seconds"]
        return Amount(next(stated[key] for key in (f"{rule}/{name}", rule, "other") if key in stated), GUESSED)


def _key(scale: str, rule: str, cell: Mapping[str, str], device: str) -> tuple[str, ...]:
    return (scale, rule, device, *(f"{name}={value}" for name, value in sorted(cell.items())))


def _kind(rule: str, cell: Mapping[str, str], asks: Mapping[str, Any]) -> tuple[str, str, str]:
    """Rule, method and network, of which jobs take the same seconds an image."""
    if rule not in NETWORK:
        return rule, "", ""
    return rule, asks.get("method", ""), cell["model"]


def _epochs(name: str, keywords: Mapping[str, Any], recipe: Mapping[str, Any]) -> float:
    """Passes over the data of an unlearner: its own, its backbone's, else the base training's."""
    for found in (keywords, keywords.get("settings", {})):
        if "epochs" in found:
            return float(found["epochs"])
    once = method.exists("unlearners", name) and "ONE_PASS" in method.needs("unlearners", name)
    return float(1 if once else recipe["epochs"])
