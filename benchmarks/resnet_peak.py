"""ResNet-18 training reaches a stated share of the machine's own matrix-product peak.

The peak is measured, not read from a data sheet: the best of several sizes of square `torch.matmul`, for each
precision and thread count, again in every round. The work is counted: FlopCounterMode over one forward and backward
pass (convolutions and matrix products, a multiply-add is 2). Training is `palimpsest.train.fit` as it stands
(channels-last, bfloat16 by autocast, weights in float32), on the published ResNet-18 (width 64) and the narrow one
(width 16) at 32x32 pixels; with the most threads, the same step with contiguous tensors shows what channels-last is
worth.

On a card, float32 means what PyTorch's convolutions use there by default, TF32, and the peak is measured so, too.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from bench import Contestant, Finding, alternate, cores, machine, parser, positive, progress, ratio, report, timed
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.data import Samples
from palimpsest.models import Network, Spec, channel_statistics, create
from palimpsest.train import Recipe, fit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192, 12288)}
BATCHES = {64: 1, 16: 2}  # batches in a round, by width, so that a round of either takes seconds
CARD_FACTOR = 50  # as many times the batches on a card, and four times the batch


@dataclass(frozen=True)
class Load:
    """What one training round is made of."""

    width: int
    images: torch.Tensor
    labels: torch.Tensor
    batch_size: int
    precision: str

    @property
    def recipe(self) -> Recipe:
        """The recipe of `resnet18` with its precision left open: the optimiser's share of a step is small."""
        return Recipe(
            epochs=1,
            batch_size=self.batch_size,
            lr=1e-3,
            optimizer="adam",
            weight_decay=0.0,
            precision=self.precision,
        )


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=3)
    made.add_argument(
        "--threads", type=positive, nargs="+", default=sorted({1, cores()}), help="thread counts (default: %(default)s)"
    )
    made.add_argument("--precisions", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    made.add_argument("--widths", type=int, nargs="+", choices=tuple(BATCHES), default=list(BATCHES))
    made.add_argument("--batch", type=positive, default=64, help="images a step, 4 times that on a card (default: 64)")
    made.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    return made.parse_args()


def convolutions_use() -> str:
    """What float32 convolutions are computed in on a card: `tf32` by default, or `ieee`."""
    return torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]


@contextlib.contextmanager
def matmul_as_convolutions() -> Iterator[None]:
    """On a card, let float32 matrix products use what convolutions use; a TF32 step over an IEEE peak would mislead."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = convolutions_use()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def product(size: int, precision: str, device: str, threads: int, times: int) -> float:
    """Seconds of one `size` x `size` matrix product: the best of `times`, after one that is not counted."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, size, size, device=device).to(DTYPES[precision])
    with matmul_as_convolutions() if device != "cpu" else contextlib.nullcontext():
        torch.matmul(a, b)
        return min(timed(lambda: torch.matmul(a, b), device) for _ in range(times))


def peak_of(precision: str, device: str, threads: int) -> tuple[Contestant, list[int]]:
    """The peak as a contestant that counts GFLOP, and the sizes that were best, one a round."""
    best: list[int] = []

    def run() -> float:
        seconds = {size: product(size, precision, device, threads, times=3) / (2e-9 * size**3) for size in sizes}
        best.append(min(seconds, key=lambda size: seconds[size]))
        return min(seconds.values())  # seconds a GFLOP

    sizes = SIZES[device]
    return Contestant(f"matmul {precision}", str(threads), 1.0, "GFLOP", run), best


def flop_per_image(model: Network, load: Load) -> float:
    """FLOP of a training step, forward and backward, by image; in float32, the count does not depend on it."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(load.images.float() / 255), load.labels).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(load.images)


def channels_last(model: Network, load: Load, threads: int) -> None:
    """One epoch as every job of ours runs it."""
    torch.set_num_threads(threads)
    fit(model, Samples(load.images, load.labels), load.recipe, seed=0)


def contiguous(model: Network, load: Load, threads: int) -> None:
    """The step of `fit` with the layout that PyTorch has by default."""
    torch.set_num_threads(threads)
    model.to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=load.recipe.lr)
    device = load.images.device.type
    for index in torch.randperm(len(load.images)).split(load.batch_size):
        index = index.to(device)
        pixels = load.images[index].float().div_(255)
        with torch.autocast(device, torch.bfloat16, enabled=load.precision == "bfloat16"):
            loss = F.cross_entropy(model(pixels).float(), load.labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def load_of(width: int, precision: str, batch: int, device: str) -> Load:
    """Random images and labels: a step costs the same whatever it learns."""
    size, count = (batch, BATCHES[width]) if device == "cpu" else (4 * batch, CARD_FACTOR * BATCHES[width])
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size * count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (size * count,), generator=generator)
    return Load(width, images.to(device), labels.to(device), size, precision)


@dataclass
class Training:
    """A network's training as contestants; `plain` is the one with contiguous tensors. flop: of one image."""

    name: str
    flop: float
    ours: Contestant
    plain: Contestant | None


def training_of(width: int, precision: str, threads: int, batch: int, device: str, *, compare: bool) -> Training:
    """Networks, images and contestants of one width, warmed up; `compare` adds the contiguous layout."""
    load = load_of(width, precision, batch, device)
    name = f"resnet18 width {width} {precision}"
    few = replace(load, images=load.images[:8], labels=load.labels[:8])
    made = []
    for layout in (channels_last, contiguous) if compare else (channels_last,):
        network = Spec("resnet", 10, 3, {"width": width})
        model = create(network, *channel_statistics(load.images), seed=0).to(device)
        flop = flop_per_image(model, few)
        layout(model, few, threads)
        run = partial(timed, partial(layout, model, load, threads), device)
        title = f"{name} {layout.__name__.replace('_', '-')}"
        made.append(Contestant(title, str(threads), len(load.images), "images", run))
    return Training(name, flop, made[0], made[1] if compare else None)


def main() -> None:
    chosen = options()
    about = machine(chosen.device)
    device = chosen.device
    most = max(chosen.threads)
    everyone: list[Contestant] = []
    findings: list[Finding] = []
    facts: dict[str, Any] = {"flop_per_image": {}, "peak": [], "training": []}
    for precision in chosen.precisions:
        for threads in sorted(set(chosen.threads)) if device == "cpu" else [most]:  # a card does not ask who feeds it
            label = f"{threads} thread{'s' if threads > 1 else ''}"
            progress(f"warming up: {precision}, {label}")
            peak, sizes = peak_of(precision, device, threads)
            trainings = [
                training_of(width, precision, threads, chosen.batch, device, compare=threads == most)
                for width in chosen.widths
            ]
            contestants = [peak, *(side for one in trainings for side in (one.ours, one.plain) if side)]
            alternate(contestants, chosen.rounds)
            everyone += contestants
            facts["peak"].append(
                {"precision": precision, "threads": threads, "gflop_per_second": peak.rates, "best_sizes": sizes}
            )
            for one in trainings:
                speeds = [rate * one.flop * 1e-9 for rate in one.ours.rates]
                shares = [speed / top for speed, top in zip(speeds, peak.rates, strict=True)]
                findings.append(Finding(f"{one.name}, {label}: share of the matmul peak", shares, "share"))
                findings.append(Finding(f"{one.name}, {label}: training", speeds, "GFLOP/s"))
                if one.plain:
                    findings.append(ratio(f"{one.name}, {label}: channels-last / contiguous", one.ours, one.plain))
                facts["flop_per_image"][one.name.rpartition(" ")[0]] = one.flop
                facts["training"].append(
                    {"name": one.name, "threads": threads, "gflop_per_second": speeds, "share_of_peak": shares}
                )
    counted = ", ".join(f"{flop * 1e-9:.3f} GFLOP for {name}" for name, flop in facts["flop_per_image"].items())
    notes = [f"forward and backward of one image are {counted}"]
    if device != "cpu":
        notes.append(f"float32 convolutions and the float32 peak use {convolutions_use()}")
    report("resnet_peak", __doc__ or "", chosen, about, everyone, findings, notes=notes, facts=facts)


if __name__ == "__main__":
    main()
