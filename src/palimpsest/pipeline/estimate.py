"""What a job will cost, from the records of jobs that ran, and what each figure rests on.

A job's seconds are its own record's where it ran before: *measured*. Else they follow from other jobs' records,
*scaled*: the images that pass through the network, as training would count them, times what an image took there. What
no record tells is a *guess* of the configuration (`plan`), and so is what follows from one.

    seconds = work x seconds an image of this rule, method, network and kind of device
            = work x weight / speed

work: images x (pixels / 32 x 32). The second line stands in where this network never ran so: weight is the trained
images that an image of this rule and method costs, speed the images that the network trains a second. They may come
from records of different networks and devices: what an unlearner costs beside training carries over better than time.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline import method
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.configuration import ConfigError, keywords_of, method_of
from palimpsest.pipeline.plan import RECORD, Job
from palimpsest.seeds import numbers

MEASURED, SCALED, GUESSED = BASES = ("measured", "scaled", "guess")  # from the best ground to the worst
NETWORK = {"train", "train_own", "unlearn", "tune", "attack", "probe", "evaluate"}  # rules whose time is a network's
# Keywords whose product is how often an attack sends its images through the network.
LOOPS = ("steps", "epochs", "restarts", "subsets", "subset_size", "population", "generations")
SIDE = 32  # pixels; speeds are of images of this height and width


@dataclass(frozen=True)
class Amount:
    """Seconds or bytes, and what they rest on: one of BASES."""

    value: float
    basis: str


def about(config: Mapping[str, Any], dataset: str) -> Mapping[str, Any]:
    """What the configuration states of a data set's images; `ConfigError` where it states nothing."""
    if dataset not in config["plan"]["images"]:
        raise ConfigError(
            f"config.yaml: plan.images lacks {dataset!r}: a plan needs its train, test, classes and shape."
        )
    found: Mapping[str, Any] = config["plan"]["images"][dataset]
    return found


def network_sizes(config: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Bytes of every network that a paper's cell asks for, by (data set, model); imports torch."""
    from palimpsest import models

    runs = {run for item in Plan(config).items.values() for cell in item for run in cell.runs}
    found = {}
    for dataset, model in {(run.dataset, run.model) for run in runs}:
        data = about(config, dataset)
        name, keywords = method_of(config, "models", model), keywords_of(config, "models", model)
        found[dataset, model] = models.size(models.Spec(name, data["classes"], data["shape"][0], keywords))
    return found


class Costs:
    """What jobs cost under one configuration, from the records of jobs that ran.

    networks: bytes of a network by (data set, model), for files that are not there yet.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        records: Iterable[Mapping[str, Any]],
        networks: Mapping[tuple[str, str], int],
    ) -> None:
        self.config, self.stated, self.networks = config, config["plan"], networks
        self.own: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        units: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for record in records:
            cell, params = record["cell"], record["params"]
            if cell.get("dataset", "") not in {"", *self.stated["images"]}:
                continue
            files = [path for path in record["outputs"] if not path.endswith(RECORD)]
            device = "cpu" if record["device"] == "cpu" else "gpu"
            try:
                work = self.work(record["rule"], cell, params, len(files))
            except KeyError:  # of a time when the rule had other params: it does not say what was done
                continue
            self.own[_key(record["scale"], record["rule"], cell, device)].append((work, record["seconds"]))
            units[device, *_kind(record["rule"], cell, params)].append(record["seconds"] / work)
        self.units = {key: statistics.median(values) for key, values in units.items()}

    def seconds(self, job: Job) -> Amount:
        """A job's seconds on the device it asks for."""
        if not job.outputs:
            return Amount(0.0, MEASURED)  # a target: nothing runs
        work = self.work(job.rule, job.cell, job.params, len(job.outputs))
        for done, seconds in self.own.get(_key(self.config["scale"], job.rule, job.cell, job.device), []):
            if math.isclose(done, work):  # and not another budget's
                return Amount(seconds, MEASURED)
        rule, name, model = _kind(job.rule, job.cell, job.params)
        if (job.device, rule, name, model) in self.units:
            return Amount(work * self.units[job.device, rule, name, model], SCALED)
        weight, speed = self._weight(rule, name), self._speed(job.device, model)
        if not model and job.gpus:
            weight = Amount(weight.value, GUESSED)  # seconds of another kind of device
        return Amount(work * weight.value / speed.value, max(weight.basis, speed.basis, key=BASES.index))

    def work(self, rule: str, cell: Mapping[str, str], params: Mapping[str, Any], files: int) -> float:
        """Images of 32 x 32 pixels that a job sends through its network; 1 for a job without one."""
        if rule not in NETWORK:
            return 1.0
        data = about(self.config, cell["dataset"])
        _, height, width = data["shape"]
        return max(1.0, self._passes(rule, cell, params, files, data) * height * width / SIDE**2)

    def _passes(
        self, rule: str, cell: Mapping[str, str], params: Mapping[str, Any], files: int, data: Mapping[str, Any]
    ) -> float:
        keywords = params.get("keywords", {})
        repeats = len(numbers(cell["seed"])) if "seed" in cell else 1
        if rule in ("train", "train_own"):
            return float(repeats * data["train"] * params["recipe"]["epochs"])
        if rule in ("unlearn", "tune"):
            trials = math.prod(len(values) for values in params.get("grid", {}).values())
            return float(repeats * trials * data["train"] * _epochs(params["method"], keywords, params["recipe"]))
        if rule == "attack":
            epsilons = len(keywords.get("epsilons", [0]))
            return files * epsilons * keywords.get("steps", 1) * self._aimed(cell["forget"], params, data)
        if rule == "probe":
            images = data["classes"] if "subsets" not in keywords else 1
            return float(repeats * images * math.prod(keywords.get(name, 1) for name in LOOPS))
        measured = data["train"] + data["test"]
        attacked = len(params["attacks"]) * (1 + len(params["defenses"])) * self._forgotten(cell["forget"], data)
        return sum(len(numbers(block)) for block in params["blocks"]) * (measured + attacked)

    def _forgotten(self, name: str, data: Mapping[str, Any]) -> float:
        rule = self.config["forget_sets"].get(name, {})
        if "count" in rule:
            return float(rule["count"])
        classes = len(rule.get("classes", ())) or rule.get("random_classes", 1)
        return float(data["train"] * rule.get("share", classes / data["classes"]))

    def _aimed(self, name: str, params: Mapping[str, Any], data: Mapping[str, Any]) -> float:
        """The images of an attack, as `attacks.aimed_at` chooses them."""
        forgotten = self._forgotten(name, data)
        if params.get("on") != "unseen":
            return forgotten
        whole = {"classes", "random_classes"} & set(self.config["forget_sets"].get(name, {}))
        return min(forgotten, data["test"] * (forgotten / data["train"] if whole else 1))

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

    def size(self, job: Job) -> list[Amount]:
        """Bytes of each of a job's files: as it lies there, else computed (`scaled`), else guessed."""
        return [
            Amount(Path(file).stat().st_size, MEASURED) if Path(file).exists() else self._size(job, file)
            for file in job.outputs
        ]

    def _size(self, job: Job, file: str) -> Amount:
        if not file.endswith(".safetensors") or "dataset" not in job.cell:
            return Amount(self.stated["file_bytes"], GUESSED)
        data = about(self.config, job.cell["dataset"])
        image = math.prod(data["shape"])
        if job.rule == "data":
            return Amount((data["train"] + data["test"]) * (image + 8), SCALED)  # with a label of 8 bytes
        if job.rule == "attack":
            blocks = 1 + len(job.params["keywords"].get("epsilons", [0]))  # and the clean images
            return Amount(blocks * image * self._aimed(job.cell["forget"], job.params, data), SCALED)
        network = self.networks.get((job.cell["dataset"], job.cell.get("model", "")))
        if job.rule not in ("train", "train_own", "unlearn") or network is None:
            return Amount(self.stated["file_bytes"], GUESSED)
        model = network * len(numbers(job.cell["seed"]))
        kept = file.endswith(".kept.safetensors")
        return Amount(model * self.stated["kept_models"], GUESSED) if kept else Amount(model, SCALED)


def _key(scale: str, rule: str, cell: Mapping[str, str], device: str) -> tuple[str, ...]:
    return (scale, rule, device, *(f"{name}={value}" for name, value in sorted(cell.items())))


def _kind(rule: str, cell: Mapping[str, str], params: Mapping[str, Any]) -> tuple[str, str, str]:
    """Rule, method and network, of which jobs take the same seconds an image."""
    if rule not in NETWORK:
        return rule, "", ""
    name = params.get("unlearner", params.get("method", "")) if rule != "train" else ""
    return rule, name, cell["model"]


def _epochs(name: str, keywords: Mapping[str, Any], recipe: Mapping[str, Any]) -> float:
    """Passes over the data of an unlearner: its own, its backbone's, the base training's if it trains so, else one."""
    for found in (keywords, keywords.get("settings", {})):
        if "epochs" in found:
            return float(found["epochs"])
    trains = method.exists("unlearners", name) and "recipe" in method.keywords("unlearners", name)
    return float(recipe["epochs"] if trains else 1)
