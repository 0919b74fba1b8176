"""A card computes what the CPU computes, and how fast: the GPU check without the workflow, in one command.

It needs torch, torchvision, scikit-learn and safetensors, and neither Snakemake nor YAML: a bare GPU image will do.

1. The CPU and the card compute the same in float32, TF32 off, and the CPU once more in float64, from which both errors
   are measured. Logits: a rounding error, which other orders of sums change by a small factor, TF32 and bfloat16 by
   thousands; the card's may be 30 times the CPU's. Weights after two steps of plain SGD, relative to the way they went:
   rounding puts some ReLUs on the other side, so this error goes with the root of the precision (on a CPU 2% for a
   ResNet-18 in float32, 30% in bfloat16); the card's may be 5 times the CPU's, or 1%, since one ReLU of a small network
   is that much. UMA's mean loss must agree within 5%: the sign of a gradient near zero may differ.
2. One training step in every form that could be fastest, in turn with matrix products of the same precision: images a
   second, share of the card's peak, memory. A form that fails is a row with its error. Where bfloat16 would only be
   emulated, as on a processor without it in hardware, every form computes in float32, as jobs do, and its row says so.
3. One cell by the functions that the rules call: train, unlearn, attack, evaluate. What does not fit into the time is
   cut, and the table says so.

Every step writes what is there so far to gpu.json and gpu.md in --out, so a killed run leaves what it had.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

# The package needs no installation here either.
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from bench import cores, machine, positive, progress, say, timed
from resnet_peak import Load, channels_last, contiguous, convolutions_use, flop_per_image, peak_of

from palimpsest import data, measure, predict, processor, requests, unlearners
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_images import OnImages, uma
from palimpsest.attacks.on_labels import OnLabels
from palimpsest.models import Network, Spec, channel_statistics, create
from palimpsest.pipeline import method
from palimpsest.train import Recipe, fit, recipe_from

# What config/config.yaml says of these networks: (file, keywords), recipe. tests/test_benchmarks.py compares the two.
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "small_cnn": (
        "small_cnn",
        {},
        {"epochs": 10, "batch_size": 64, "lr": 1e-3, "optimizer": "adam", "weight_decay": 0.0},
    ),
    "lenet": (
        "lenet",
        {},
        {"epochs": 10, "batch_size": 64, "lr": 1e-3, "optimizer": "adam", "weight_decay": 0.0},
    ),
    "resnet18": (
        "resnet",
        {"depth": 18},
        {"epochs": 10, "batch_size": 64, "lr": 1e-3, "optimizer": "adam", "weight_decay": 0.0, "precision": "bfloat16"},
    ),
    "resnet18_narrow": (
        "resnet",
        {"depth": 18, "width": 16},
        {"epochs": 12, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine", "warmup_epochs": 2,
         "precision": "bfloat16"},
    ),
    "resnet50": (
        "resnet",
        {"depth": 50},
        {"epochs": 182, "batch_size": 256, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "multistep",
         "milestones": [91, 136], "augment": ["crop", "flip"], "precision": "bfloat16"},
    ),
}  # fmt: skip
SEED = 0
LOGITS_FACTOR, STEPS_FACTOR, STEPS_LEAST, ATTACK_TOLERANCE = 30, 5, 0.01, 0.05
ROUNDS = 3
SECONDS_A_ROUND = {"cuda": 2.0, "cpu": 1.0}
SMALL = 1000  # training images on a CPU
METRICS = ("forget_accuracy", "retain_accuracy", "test_accuracy_retained", "member_rate", "attack_loss",
           "balanced_accuracy")  # fmt: skip
NO_CARD = "no card: the same check on the CPU"
NO_BFLOAT16 = "float32: no bfloat16 in this hardware"


class OutOfTime(BaseException):
    """A step's time is over; no `except Exception` on the way may keep it."""


@dataclass
class Check:
    """What was found so far; `save` writes it."""

    settings: dict[str, Any]
    about: dict[str, Any]
    out: Path
    deadline: float
    steps: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    cell: list[dict[str, Any]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        return str(self.settings["device"])

    @property
    def threads(self) -> int:
        return int(self.settings["threads"])

    @property
    def left(self) -> float:
        """Seconds until the check must end."""
        return self.deadline - time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str, share: float) -> Iterator[float]:
        """A step with a share of the time that is left; its failure or timeout is kept, and stops nothing.

        Gives the moment, of `time.monotonic`, at which the step will be stopped.
        """
        limit = max(1.0, share * self.left)
        entry: dict[str, Any] = {"step": name, "status": "ok", "limit_seconds": round(limit, 1)}
        progress(f"{name}: at most {limit:.0f} s, {self.left:.0f} s are left")
        started = time.monotonic()
        try:
            with within(limit):
                yield started + limit
        except OutOfTime:
            entry["status"] = f"stopped after its {limit:.0f} s; --minutes gives more"
        except Exception as error:
            entry["status"] = sentence(error)
        entry["seconds"] = round(time.monotonic() - started, 2)
        progress(f"{name}: {entry['status']}, {entry['seconds']} s")
        self.steps.append(entry)
        if self.device != "cpu":
            torch.cuda.empty_cache()
        self.save()

    def save(self, finished: bool = False) -> None:
        """Write gpu.json and gpu.md, each whole or not at all."""
        content = {key: value for key, value in vars(self).items() if key not in ("out", "deadline")}
        content |= {"benchmark": "gpu", "claim": (__doc__ or "").splitlines()[0], "finished": finished}
        self.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("gpu.json", json.dumps(content, indent=1) + "\n"), ("gpu.md", self.markdown(finished))):
            temporary = self.out / f".{name}.{os.getpid()}.tmp"
            temporary.write_text(text)
            os.replace(temporary, self.out / name)

    def pivoted(self) -> list[dict[str, Any]]:
        """The measurements with a column for each of a reader's metrics; the JSON has them all."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in self.measured:
            if row["metric"] in METRICS:
                about = {name: row[name] for name in ("model", "attack", "epsilon", "screening") if row.get(name)}
                found.setdefault(tuple(about.values()), about)[row["metric"]] = row["value"]
        return list(found.values())

    def markdown(self, finished: bool) -> str:
        """The tables."""
        about = self.about
        lines = [
            f"# GPU check: {about['device'] if self.device != 'cpu' else NO_CARD}",
            "",
            f"{about['cpu']}, {about['cores']} cores; torch {about['torch']}, Python {about['python']}; "
            f"{self.settings['dataset']}, {self.settings['model']}, {self.settings['unlearner']}, "
            f"{self.settings['attack']}." + ("" if finished else " Not finished."),
        ]
        tables = {
            "CPU and card": self.agreement,
            "Training step": self.speeds,
            "One cell": self.cell,
            "What it measured": self.pivoted(),
            "Steps": self.steps,
        }
        for title, rows in tables.items():
            if rows:
                columns = list(dict.fromkeys(key for row in rows for key in row))
                lines += ["", f"## {title}", "", "| " + " | ".join(c.replace("_", " ") for c in columns) + " |"]
                lines.append("|" + "|".join("---" for _ in columns) + "|")
                lines += ["| " + " | ".join(shown(row.get(c)) for c in columns) + " |" for row in rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"


def shown(value: object) -> str:
    """A value as a cell of a table."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else str(value).replace("|", "\\|")


def sentence(error: BaseException) -> str:
    """An error in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first[:200]}"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds; blocks may be nested, the outer's time goes on."""

    def stop(*_: object) -> None:
        raise OutOfTime

    handler = signal.signal(signal.SIGALRM, stop)
    started = time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    if outer and outer < seconds:
        signal.setitimer(signal.ITIMER_REAL, outer)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.01, outer - (time.monotonic() - started)) if outer else 0)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """On a card, float32 with all its bits: no TF32 in convolutions and matrix products."""
    flags = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [flag.fp32_precision for flag in flags]  # type: ignore[attr-defined]
    try:
        for flag in flags:
            flag.fp32_precision = "ieee"  # type: ignore[attr-defined]
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.fp32_precision = value  # type: ignore[attr-defined]


def memory_mb(device: str) -> int:
    """The most that the card's allocator, or without a card this process, ever held, in MB."""
    if device != "cpu":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    card = torch.cuda.is_available()
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=Path("data"), help="data root, or a file that rule `data` wrote")
    made.add_argument("--dataset", choices=method.files("data"), default="cifar10" if card else "digits")
    made.add_argument("--model", choices=tuple(NETWORKS), default="resnet18" if card else "resnet18_narrow")
    made.add_argument("--unlearner", choices=method.files("unlearners"), default="random_label")
    made.add_argument("--attack", choices=("uma", "inversion_white_box", "inversion_black_box"), default="uma")
    made.add_argument("--forget-class", type=int, metavar="K", default=0, help="the class to forget (default: 0)")
    made.add_argument("--forget-share", type=float, metavar="S", help="forget this share of all images instead")
    made.add_argument("--recipe", type=json.loads, default={}, metavar="JSON", help="e.g. '{\"batch_size\": 512}'")
    made.add_argument("--unlearner-keywords", type=json.loads, default={}, metavar="JSON")
    made.add_argument("--attack-keywords", type=json.loads, default={}, metavar="JSON")
    made.add_argument("--images", type=positive, help=f"training images (default: all; {SMALL} on a CPU)")
    made.add_argument(
        "--minutes", type=float, default=8.0, help="the check ends within, imports not counted (default: 8)"
    )
    made.add_argument("--without-compiling", action="store_true", help="leave torch.compile out, which takes minutes")
    made.add_argument("--threads", type=positive, default=cores(), help="CPU threads (default: all cores)")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if card else "cpu")
    return made.parse_args(arguments)


def images_of(chosen: argparse.Namespace) -> data.Images:
    """The data set, or as many images of each class as --images asks for."""
    if chosen.data.suffix == ".safetensors":
        images = data.read(chosen.data)
    else:
        images = import_module(f"palimpsest.data.{chosen.dataset}").load(chosen.data)
    wanted = chosen.images or (SMALL if chosen.device == "cpu" else len(images.train_labels))
    if wanted >= len(images.train_labels):
        return images
    fewest = [int(torch.bincount(labels).min()) for labels in (images.train_labels, images.test_labels)]
    each = max(1, wanted // len(images.classes))
    return data.stratified(images, train_per_class=min(each, fewest[0]), test_per_class=min(each, fewest[1]))


def compare(spec: Spec, images: data.Images, device: str, precision: str = "float32") -> list[dict[str, Any]]:
    """Rows that say how far the CPU and the card end from float64; `agrees` is None where there is no card."""
    few, labels = images.train_images[:64].cpu(), images.train_labels[:64].cpu()
    start = create(spec, *channel_statistics(few), SEED)
    # Plain SGD: Adam divides a gradient near zero by its own size, so that rounding could decide a whole step.
    recipe = Recipe(epochs=1, batch_size=32, lr=1e-3, momentum=0.0, weight_decay=0.0)

    def logits(device: str, dtype: torch.dtype, precision: str = "float32") -> torch.Tensor:
        model, pixels = deepcopy(start).to(device, dtype).eval(), few.to(device, dtype) / 255
        with (
            torch.no_grad(),
            torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            return model(pixels).double().cpu()

    def way(device: str, dtype: torch.dtype, precision: str = "float32") -> torch.Tensor:
        model, how = deepcopy(start).to(device, dtype), replace(recipe, precision=precision)
        fit(model, data.Samples(few.to(device), labels.to(device)), how, seed=SEED)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return torch.cat([(end.detach().cpu().double() - begin.detach().double()).flatten() for end, begin in pairs])

    def attacked(device: str) -> float:
        model, original = (create(spec, *channel_statistics(few), seed).to(device) for seed in (SEED, SEED + 1))
        aim = data.Samples(few.to(device), labels.to(device))
        made = uma.attack(OnImages(model, original, aim, SEED), steps=3)
        return made.loss.double().mean().item()

    rows: list[dict[str, Any]] = []
    compared = device != "cpu" or precision != "float32"
    for what, compute, factor, least in (
        ("logits' error", logits, LOGITS_FACTOR, 1e-6),
        ("2 training steps, weights' error", way, STEPS_FACTOR, STEPS_LEAST),
    ):
        truth = compute("cpu", torch.float64)
        with whole_float32():
            pair = compute("cpu", torch.float32), compute(device, torch.float32, precision)
        here, there = (float((found - truth).norm() / truth.norm()) for found in pair)
        allowed = max(factor * here, least)
        row = {"what": f"{what}, {precision}", "cpu": here, "card": there, "allowed": allowed}
        rows.append(row | {"agrees": there <= allowed if compared else None})
        if device != "cpu":
            as_run = float((compute(device, torch.float32) - truth).norm() / truth.norm())
            rows.append({"what": f"{what}, as jobs run ({convolutions_use()} convolutions)", "card": as_run})
    with whole_float32():
        losses = attacked("cpu"), attacked(device)
    apart = abs(losses[1] - losses[0]) / abs(losses[0])
    allowance = f"{ATTACK_TOLERANCE:.0%} apart, found {apart:.2%}"
    row = {"what": "UMA, 3 steps, mean loss, float32", "cpu": losses[0], "card": losses[1], "allowed": allowance}
    return [*rows, row | {"agrees": apart <= ATTACK_TOLERANCE if device != "cpu" else None}]


@dataclass
class Form:
    """One way to compute a training step, warmed up. rates: images a second, one a round; shares: of the peak."""

    row: dict[str, Any]
    load: Load
    run: Callable[[], float]
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


def forms(device: str) -> list[tuple[str, str, Callable[..., None], Callable[[Network], Any]]]:
    """Each with its name and precision, the epoch to run, and what to make of the network before."""
    halved = processor.has_bfloat16(device)
    found: list[tuple[str, str, Callable[..., None], Callable[[Network], Any]]] = [
        ("eager, contiguous", "float32", contiguous, lambda network: network),
        ("eager, channels-last", "float32", channels_last, lambda network: network),
        ("compiled, channels-last", "bfloat16" if halved else "float32", channels_last, torch.compile),
    ]
    if halved:
        found.insert(2, ("eager, channels-last", "bfloat16", channels_last, lambda network: network))
    if device != "cpu":
        graphs = partial(torch.compile, mode="reduce-overhead")
        found.append(("compiled, CUDA graphs, channels-last", "bfloat16", channels_last, graphs))
    return found


def warmed(
    row: dict[str, Any],
    make: Callable[[], Any],
    epoch: Callable[..., None],
    images: data.Images,
    size: int,
    check: Check,
) -> Form:
    """A form after its first steps, with as many images as a round of some seconds takes."""
    device, card = check.device, check.device != "cpu"

    def load(batches: int) -> Load:
        count = min(size * batches, len(images.train_labels) // size * size)
        pixels, labels = (part[:count].to(device) for part in (images.train_images, images.train_labels))
        return Load(0, pixels, labels, size, row["precision"])

    before = torch.cuda.memory_allocated() if card else 0
    if card:
        torch.cuda.reset_peak_memory_stats()
    network, few = make(), load(2)
    row["first_seconds"] = timed(lambda: epoch(network, few, check.threads), device)
    seconds = timed(lambda: epoch(network, few, check.threads), device)
    row["images_per_second"] = len(few.labels) / seconds  # until there are rounds
    whole = load(max(2, round(2 * SECONDS_A_ROUND[device] / seconds)))
    if card:
        row["peak_memory_mb"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
    return Form(row, whole, lambda: timed(lambda: epoch(network, whole, check.threads), device))


def measure_speeds(check: Check, spec: Spec, images: data.Images, recipe: Recipe, deadline: float) -> None:
    """Rows of `check.speeds`, each form in turn with the peak of its precision; to end before `deadline`."""
    device = check.device
    size = min(recipe.batch_size, len(images.train_labels))
    start = create(spec, *channel_statistics(images.train_images), SEED)
    few = Load(0, images.train_images[:8].to(device), images.train_labels[:8].to(device), 8, "float32")
    flop = flop_per_image(deepcopy(start).to(device), few)
    check.notes.append(f"forward and backward of one image are {flop * 1e-9:.3g} GFLOP")
    peaks: dict[str, Any] = {}
    choices = forms(device)
    for precision in dict.fromkeys(precision for _, precision, _, _ in choices):
        peaks[precision] = peak_of(precision, device, check.threads)[0]
        try:
            peaks[precision].run()
        except Exception as error:
            del peaks[precision]
            check.notes.append(f"no peak in {precision}: {sentence(error)}")
    ready: list[Form] = []
    if check.settings["without_compiling"]:
        choices = [choice for choice in choices if not choice[0].startswith("compiled")]
    for number, (name, precision, epoch, change) in enumerate(choices):
        row: dict[str, Any] = {"form": name, "precision": precision, "images_per_second": None, "share_of_peak": None}
        if not processor.has_bfloat16(device):
            row["note"] = NO_BFLOAT16
        check.speeds.append(row)
        progress(f"warming up: {name}, {precision}")
        try:
            # What one does not use goes to those after it; the last leaves half for the rounds.
            with within((deadline - time.monotonic()) / (1 + len(choices) - number)):
                make = partial(lambda change: change(deepcopy(start).to(device)), change)
                ready.append(warmed(row, make, epoch, images, size, check))
        except OutOfTime:
            row["note"] = "not warm when its time was over; --minutes gives more"
        except Exception as error:
            row["note"] = sentence(error)
        check.save()
    for number in range(ROUNDS):
        began = time.monotonic()
        tops = {precision: 1 / peak.run() for precision, peak in peaks.items()}  # GFLOP a second
        for form in ready:
            form.rates.append(len(form.load.labels) / form.run())
            form.row["images_per_second"] = statistics.median(form.rates)
            form.row["least_to_most"] = f"{min(form.rates):,.0f} to {max(form.rates):,.0f}"
            if top := tops.get(form.row["precision"]):
                form.shares.append(form.rates[-1] * flop * 1e-9 / top)
                form.row["share_of_peak"] = f"{statistics.median(form.shares):.1%}"
            progress(
                f"round {number + 1} of {ROUNDS}: {form.row['form']}, {form.row['precision']}: "
                f"{form.rates[-1]:,.0f} images/s"
            )
        check.save()
        if 2 * time.monotonic() - began > deadline:  # the next would take as long
            check.notes.append(f"{number + 1} of {ROUNDS} rounds of the training step fitted into its time")
            break
    best = max(ready, key=lambda form: form.row["images_per_second"]).row
    check.notes.append(f"the fastest training step: {best['form']}, {best['precision']}")
    check.notes.append("peak, matrix products: " + ", ".join(f"{top:,.0f} GFLOP/s {p}" for p, top in tops.items()))


class Cell:
    """One cell by the functions that the rules call, cut to the time that is left."""

    def __init__(
        self, check: Check, spec: Spec, recipe: Recipe, images: data.Images, chosen: argparse.Namespace
    ) -> None:
        self.check, self.spec, self.chosen = check, spec, chosen
        self.recipe = recipe
        self.statistics = channel_statistics(images.train_images)
        self.images = images.to(check.device)
        rule = requests.Rule("classes", {"classes": [chosen.forget_class]})
        if chosen.forget_share:
            rule = requests.Rule("samples", {"share": chosen.forget_share})
        self.everything = self.images.splits["train"]
        request = rule.choose(images, requests.Choice(SEED))
        self.forget, self.retain, self.indices, _ = requests.split(self.everything, request)
        self.unlearner = import_module(f"palimpsest.unlearners.{chosen.unlearner}")

    def timed(self, what: str, work: Callable[[], Any], **facts: Any) -> tuple[Any, float]:
        """What `work` gives and its seconds, with a row of the table."""
        if self.check.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        made: list[Any] = []
        seconds = timed(lambda: made.append(work()), self.check.device)
        row = {"step": what, "seconds": seconds, "peak_memory_mb": memory_mb(self.check.device)}
        self.check.cell.append(row | {key: value for key, value in facts.items() if value is not None})
        return made[0], seconds

    def passes(self, wanted: int, images: int, share: float) -> tuple[int, str | None]:
        """How many passes over `images` fit into a share of the time that is left, and what was cut."""
        fit_in = max(1, int(share * self.check.left * self.speed / max(images, 1)))
        return min(wanted, fit_in), f"{fit_in} of {wanted}" if fit_in < wanted else None

    def train(self) -> None:
        """The base model, by the recipe; where the unlearner has a base training of its own, by that."""
        count = len(self.everything.labels)
        some = data.Samples(*(part[: 4 * self.recipe.batch_size] for part in self.everything))
        once = replace(self.recipe, epochs=1)
        fresh = create(self.spec, *self.statistics, SEED).to(self.check.device)
        for _ in range(2):  # the first one pays for what is loaded once
            seconds = timed(lambda: fit(deepcopy(fresh), some, once, seed=SEED), self.check.device)
        self.speed = len(some.labels) / seconds
        epochs, cut = self.passes(self.recipe.epochs, count, 0.3)
        recipe = replace(self.recipe, epochs=epochs)
        self.recipe, self.kept = recipe, {}

        def work() -> Network:
            if not hasattr(self.unlearner, "train_base"):
                return fit(fresh, self.everything, recipe, seed=SEED)
            at = unlearners.Base(SEED, recipe, requests=[self.indices])
            model, self.kept = self.unlearner.train_base(fresh, self.everything, at)
            return model

        halved = recipe.precision == "bfloat16" and processor.has_bfloat16(self.check.device)
        precision = "bfloat16" if halved else "float32" if recipe.precision == "float32" else NO_BFLOAT16
        self.original, seconds = self.timed("train", work, epochs=epochs, cut=cut, precision=precision)
        self.speed = epochs * count / seconds
        self.check.cell[-1]["images_per_second"] = self.speed
        if cut:
            whole = NETWORKS[self.chosen.model][2] | self.chosen.recipe
            minutes = whole["epochs"] * count / self.speed / 60
            self.check.notes.append(
                f"all {whole['epochs']} epochs of {count:,} images would take {minutes:,.1f} minutes"
            )

    def unlearn(self) -> None:
        """The unlearned model, with the method's own defaults."""
        unlearn = self.unlearner.unlearn
        parameters = inspect.signature(unlearn).parameters
        given, cut = dict(self.chosen.unlearner_keywords), None
        own = parameters["training"].default.epochs if "training" in parameters else None
        wanted = parameters["epochs"].default if "epochs" in parameters else own
        if wanted is not None and "epochs" not in given:
            given["epochs"], cut = self.passes(wanted, len(self.everything.labels), 0.3)
        at = unlearners.Step(
            SEED,
            self.recipe,
            indices=self.indices,
            kept=self.kept,
            initial=lambda: create(self.spec, *self.statistics, SEED).to(self.check.device),
        )
        keywords = unlearners.gathered(unlearn, given)
        made, _ = self.timed(
            f"unlearn: {self.chosen.unlearner}",
            lambda: unlearn(self.original, self.forget, self.retain, at, **keywords),
            epochs=given.get("epochs"),
            cut=cut,
        )
        self.unlearned = made.network

    def attack(self) -> None:
        """The attack on the unlearned model, with the method's own defaults."""
        module = import_module(f"palimpsest.{method.module('attacks', self.chosen.attack)}")
        given = dict(self.chosen.attack_keywords)
        name, self.attacked, self.judged = f"attack: {self.chosen.attack}", {}, {}
        default = inspect.signature(module.attack).parameters
        if self.chosen.attack == "uma":
            epsilons = given.get("epsilons", default["epsilons"].default)
            tried = len(epsilons) * len(self.forget.labels)
            steps, cut = self.passes(given.get("steps", default["steps"].default), tried, 0.5)
            given |= {"steps": steps, "epsilons": epsilons}
            made, seconds = self.timed(
                name,
                lambda: uma.attack(OnImages(self.unlearned, self.original, self.forget, SEED), **given),
                steps=steps,
                cut=cut,
            )
            self.check.cell[-1]["image_steps_per_second"] = tried * steps / seconds
            # TF32 may keep the folded copy so far from the network that the attack takes the slower one.
            searched = frozen(self.unlearned, self.forget.images[:8].float() / 255)
            if any(isinstance(module, torch.nn.BatchNorm2d) for module in searched.modules()):
                self.check.notes.append("UMA's copy of the network was not folded: rounding kept it too far away")
            clean = {"clean": self.forget.images, "labels": self.forget.labels}
            self.attacked["uma"] = predict.Attacked(on="forget", epsilons=tuple(epsilons), **clean, **made._asdict())
            return
        server = getattr(module, "query_of", lambda model: model)(self.unlearned)
        shape, count = self.images.train_images.shape[1:], len(self.images.classes)
        at = OnLabels(server, shape, count, SEED, device=self.check.device)
        made, _ = self.timed(name, lambda: module.attack(at, **given))
        kept = self.retain.labels.unique().cpu()
        truth = {0: torch.isin(torch.arange(count), kept, invert=True)}
        found = {0: {key: torch.as_tensor(value).cpu() for key, value in made._asdict().items()}}
        self.judged = {self.chosen.attack: measure.judge(module.judge, found, truth, {0: SEED})}

    def evaluate(self) -> None:
        """Every measurement of both models."""

        def work() -> list[measure.Row]:
            sets = (self.images, self.forget, self.retain)
            original = predict.outputs(self.original, *sets)
            unlearned = predict.outputs(self.unlearned, *sets, self.attacked)
            return [row | {"model": "original"} for row in measure.measure({0: original})] + [
                row | {"model": self.chosen.unlearner} for row in measure.measure({0: unlearned}, judged=self.judged)
            ]

        rows, _ = self.timed("evaluate", work)
        columns = ("model", "attack", "epsilon", "screening", "metric", "value", "unit", "n")
        self.check.measured += [{column: row.get(column) for column in columns} for row in rows if "values" not in row]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options(arguments)
    started = time.monotonic()
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(chosen).items()}
    torch.set_num_threads(chosen.threads)
    check = Check(settings, machine(chosen.device), chosen.out, started + 60 * chosen.minutes)
    if chosen.device == "cpu":
        check.notes.append(NO_CARD)
    file, keywords, recipe_settings = NETWORKS[chosen.model]
    recipe = recipe_from(recipe_settings | chosen.recipe)
    try:
        images = images_of(chosen)
        spec = Spec(file, len(images.classes), images.train_images.shape[1], keywords)
        cell = Cell(check, spec, recipe, images, chosen)
    except (data.DataError, requests.RequestError, FileNotFoundError) as reason:
        raise SystemExit(str(reason)) from None
    check.notes.append(f"{len(images.train_labels):,} training and {len(images.test_labels):,} test images")
    with check.step("CPU and card agree", 0.25):
        check.agreement += compare(spec, images, chosen.device)
    with check.step("speed of a training step", 0.55) as deadline:
        measure_speeds(check, spec, images, recipe, deadline)
    for name, share in (("train", 0.6), ("unlearn", 0.6), ("attack", 0.7), ("evaluate", 0.95)):
        with check.step(name, share):
            getattr(cell, name)()
        if check.steps[-1]["status"] != "ok":
            break  # each needs the one before
    check.save(finished=True)
    say(check.markdown(finished=True))
    progress(f"{time.monotonic() - started:.0f} s; written to {chosen.out / 'gpu.json'} and gpu.md")
    failed = [step["step"] for step in check.steps if step["status"] != "ok"]
    failed += [row["what"] for row in check.agreement if row.get("agrees") is False]
    if failed:
        raise SystemExit(f"not as it should be: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
