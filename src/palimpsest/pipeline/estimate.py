"""What a job will cost, estimated from the records of jobs that ran, and what each estimate rests on.

The seconds of a job's own record are *measured*. Otherwise they are *scaled* from other jobs' records. Where no record
helps, a number of the configuration (`plan`) is a *guess*, and so is everything computed from it.

    seconds = work x seconds an image of this rule, method, network and kind of device
            = work x weight / speed

work is images x (pixels / 32 x 32). The second line is used where this network never ran so: weight is how many trained
images an image of this rule and method costs, and speed is how many images the network trains a second.
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
from palimpsest.pipeline.values import SAME, STEP
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
    """The costs of jobs under one configuration, estimated from the records of jobs that ran."""

    def __init__(self, config: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        self.config, self.stated = config, config["plan"]
        self.own: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        units: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for record in records:
            rule, cell, asks = record["rule"], record["cell"], record["params"]
            try:
                work = self.work(rule, cell, asks)
            except (KeyError, ConfigError):  # an older record, or another data set: the work behind it is unknown
                continue
            device = "cpu" if record["device"] == "cpu" else "gpu"
            self.own[_key(record["scale"], rule, cell, device)].append((work, record["seconds"]))
            units[device, *_kind(rule, cell, asks)].append(record["seconds"] / work)
        self.units = {key: statistics.median(values) for key, values in units.items()}

    def seconds(self, job: Job) -> Amount:
        """Return the seconds that a job takes on its kind of device."""
        if not job.runs:
            return Amount(0.0, MEASURED)
        work = self.work(job.rule, job.cell, job.asks)
        for done, seconds in self.own.get(_key(self.config["scale"], job.rule, job.cell, job.device), []):
            if math.isclose(done, work):  # else the record is of another budget
                return Amount(seconds, MEASURED)
        rule, name, model = _kind(job.rule, job.cell, job.asks)
        if (job.device, rule, name, model) in self.units:
            return Amount(work * self.units[job.device, rule, name, model], SCALED)
        weight, speed = self._weight(rule, name), self._speed(job.device, model)
        if not model and job.gpus:
            weight = Amount(weight.value, GUESSED)  # the seconds come from another kind of device
        return Amount(work * weight.value / speed.value, max(weight.basis, speed.basis, key=BASES.index))

    def work(self, rule: str, cell: Mapping[str, str], asks: Mapping[str, Any]) -> float:
        """Return how many images of 32 x 32 pixels a job sends through its network; 1 for a job without a network."""
        if rule not in NETWORK:
            return 1.0
        if cell["dataset"] not in self.stated["images"]:
            raise ConfigError(
                f"config.yaml: plan.images lacks {cell['dataset']!r}: its train, test, classes and shape."
            )
        data = self.stated["images"][cell["dataset"]]
        _, height, width = data["shape"]
        # Records of the first layout, which the laptop's are, say `seed`.
        tuning = self.config["tuning"]["repetitions"] if rule == "tune" else 1
        repeats = len(numbers(cell.get("block", cell.get("seed", "0")))) * tuning
        return max(1.0, repeats * self._passes(rule, cell, asks, data) * height * width / SIDE**2)

    def _passes(self, rule: str, cell: Mapping[str, str], asks: Mapping[str, Any], data: Mapping[str, Any]) -> float:
        keywords = asks.get("keywords", {})
        if rule == "train":
            return float(data["train"] * asks["recipe"]["epochs"])
        if rule in ("unlearn", "tune"):
            return float(asks.get("trials", 1)) * self._unlearning(cell, asks, data)
        forgotten = self._forgotten(cell["forget"], data)
        if rule == "attack":
            if asks["on"] != "forget":  # as many test images as forget images, or all those of the forgotten classes
                kind = method_of(self.config, "requests", cell["forget"].split(STEP)[0])
                classes = method.literal(method.path("requests", kind), "WHOLE_CLASSES")
                forgotten = min(forgotten, data["test"] * (forgotten / data["train"] if classes else 1))
            forgotten = min(forgotten, asks.get("at_most") or math.inf)
            searches = math.prod(keywords.get(name, 1) for name in ("steps", "times", "restarts"))
            return len(keywords.get("epsilons", [0])) * searches * forgotten
        if rule == "probe":
            images = data["classes"] if "subsets" not in keywords else 1
            return float(images * math.prod(keywords.get(name, 1) for name in LOOPS))
        forgotten = min(forgotten, self.config["budgets"].get("attacked", math.inf))
        attacked = len(asks["attacks"]) * (1 + len(asks["defenses"])) * forgotten
        return float(data["train"] + data["test"] + attacked)

    def _unlearning(self, cell: Mapping[str, str], asks: Mapping[str, Any], data: Mapping[str, Any]) -> float:
        """Return how many images one unlearning of one repetition sends through the network.

        A method that trains says how many epochs, or its backbone does; else it takes the base training's. One whose
        file, or whose backbone's, says `NO_EPOCHS` is taken to read, for each mini-batch of what is to be forgotten,
        the remaining data once (or as much of it as it samples), or as many batches of it as its recursion is deep,
        where a product with the Hessian counts as two gradients. Mini-batches and depth are those that its entry gives.
        """
        name, keywords = asks["method"], asks["keywords"]
        if "backbone" in keywords:
            name, keywords = keywords["backbone"], {**keywords, **keywords.get("settings", {})}
        if name in method.files("unlearners") and method.literal(method.path("unlearners", name), "NO_EPOCHS"):
            *_, asked = cell["forget"].split(STEP)
            forgotten = self._forgotten(cell["forget"] if asked == SAME else asked, data)
            batches = math.ceil(forgotten / keywords.get("batch_forget", forgotten))
            deep = "depth" in keywords and "batch_retain" in keywords
            seen = keywords.get("fisher_samples") or data["train"]
            read = 2 * keywords["depth"] * keywords["batch_retain"] if deep else min(seen, data["train"])
            return float(batches * read)
        return float(data["train"] * keywords.get("epochs", asks["recipe"]["epochs"]))

    def _forgotten(self, chain: str, data: Mapping[str, Any]) -> float:
        """Return how many training images the requests of a chain name together."""
        return sum(self._named(name, data) for name in chain.split(STEP) if name != SAME)

    def _named(self, name: str, data: Mapping[str, Any]) -> float:
        request = self.config["requests"].get(name, {})
        if "count" in request:
            return float(request["count"])
        classes = len(request.get("classes", ())) or request.get("random", 1)
        return float(data["train"] * request.get("share", classes / data["classes"]))

    def _speed(self, device: str, model: str) -> Amount:
        """Return how many images (32 x 32) a network trains a second; 1 where there is no network."""
        if not model:
            return Amount(1.0, MEASURED)
        if (unit := self.units.get((device, "train", "", model))) is not None:
            return Amount(1 / unit, SCALED)
        entry = self.stated["speed"][device].get(model, self.stated["speed"][device]["other"])
        return Amount(entry["images_per_second"], SCALED if "measured" in entry else GUESSED)

    def _weight(self, rule: str, name: str) -> Amount:
        """Return what an image of a rule and method costs, in trained images; in seconds where there is no network."""
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
    """Return rule, method and network; jobs that share these take the same seconds an image."""
    if rule not in NETWORK:
        return rule, "", ""
    return rule, asks.get("method", ""), cell["model"]
