"""Inverting all classes in one batch makes more steps and evaluations a second than one class at a time.

Ours: `inversion_white_box` and `inversion_black_box` as they are: every class and every start, or
every class's population, in one batch. Their rivals are the same functions on one class after another, and for the
white box on one image after another (`batch_size=1`), the way the paper's loops over classes and starts read. An
image-step is one gradient step of one image, an evaluation is one image that the network is asked about.

Networks: small_cnn of width 16 on 1x8x16 pixels (the demo's digit pairs) and LeNet on 1x28x28, ten classes, trained
for a few epochs on synthetic images. Both sides use the same random numbers, so the white box's losses and the black
box's best fitness must agree; where they differ by more than 1%, the ratio compares different attacks and the script
fails. What a batch saves is what a pass costs before any arithmetic: on a core there is little of it in a population
of 100, which is a batch already, and a card should gain more.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from bench import Contestant, Finding, alternate, machine, parser, positive, progress, ratio, report, timed
from torch.nn import functional as F

from palimpsest.attacks.on_labels import OnLabels
from palimpsest.attacks.on_labels import inversion_black_box as black_box
from palimpsest.attacks.on_labels import inversion_white_box as white_box
from palimpsest.data import Samples
from palimpsest.models import Network, Spec, channel_statistics, create
from palimpsest.train import Recipe, fit

CLASSES = 10
RESTARTS = 5
POPULATION, ELITES = 100, 5
SEED = 0
TOLERANCE = 0.01  # of the mean loss or fitness: rounding differs with the size of a batch, and grows over the steps


@dataclass(frozen=True)
class Case:
    """A network to invert; steps and generations of a round, sized for about a second on a core."""

    name: str
    spec: Spec
    shape: tuple[int, int, int]
    steps: int
    generations: int


CASES = (
    Case("small_cnn 1x8x16", Spec("small_cnn", CLASSES, 1, {"width": 16, "hidden": 64}), (1, 8, 16), 20, 10),
    Case("lenet 1x28x28", Spec("lenet", CLASSES, 1), (1, 28, 28), 20, 10),
)


@dataclass
class Duel:
    """A case made ready, and what each side reached: mean loss of the white box, mean best fitness of the black box."""

    case: Case
    model: Network
    steps: int
    generations: int
    device: str
    reached: dict[str, float] = field(default_factory=dict)


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument("--threads", type=positive, default=1, help="CPU threads (default: %(default)s)")
    made.add_argument("--scale", type=float, default=1.0, help="steps and generations of a round, times this")
    made.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    return made.parse_args()


def prepare(case: Case, scale: float, device: str) -> Duel:
    """Train on a coarse pattern a class, and noise: an untrained network's losses hardly move."""
    generator = torch.Generator().manual_seed(SEED)
    channels, height, width = case.shape
    coarse = torch.rand(CLASSES, channels, height // 4, width // 4, generator=generator)
    labels = torch.arange(640) % CLASSES
    noise = 0.3 * torch.randn(640, *case.shape, generator=generator)
    pixels = (F.interpolate(coarse, (height, width), mode="bilinear")[labels] + noise).clamp(0, 1) * 255
    images = pixels.round().to(torch.uint8).to(device)
    recipe = Recipe(epochs=3, batch_size=64, lr=1e-3, optimizer="adam", weight_decay=0.0)
    model = create(case.spec, *channel_statistics(images), seed=SEED).to(device)
    fit(model, Samples(images, labels.to(device)), recipe, seed=SEED)
    return Duel(case, model, max(1, round(case.steps * scale)), max(1, round(case.generations * scale)), device)


def descend(duel: Duel, side: str, batch_size: int) -> None:
    """One round of the white box, `batch_size` images at a time: 5 are the starts of one class."""
    made = white_box.attack(
        OnLabels(duel.model, duel.case.shape, CLASSES, SEED),
        restarts=RESTARTS,
        steps=duel.steps,
        batch_size=batch_size,
    )
    duel.reached[side] = float(made.losses.mean())


def breed(duel: Duel, side: str, groups: list[list[int]]) -> None:
    """One round of the black box, the classes of each group side by side, one group after another."""
    histories = [
        black_box.attack(
            OnLabels(black_box.query_of(duel.model), duel.case.shape, CLASSES, SEED, device=duel.device),
            targets=targets,
            population=POPULATION,
            generations=duel.generations,
            elites=ELITES,
        ).history
        for targets in groups
    ]
    duel.reached[side] = float(torch.cat(histories, 1)[-1].mean())


def contestants_of(duel: Duel, threads: int) -> dict[str, Contestant]:
    """The five sides of a case, in the order they take turns."""
    every, each = [list(range(CLASSES))], [[target] for target in range(CLASSES)]
    image_steps = CLASSES * RESTARTS * duel.steps
    evaluations = CLASSES * (POPULATION + duel.generations * (POPULATION - ELITES))
    sides: dict[str, tuple[int, str, Any]] = {
        "white box, all classes": (image_steps, "image-steps", partial(descend, batch_size=CLASSES * RESTARTS)),
        "white box, one class at a time": (image_steps, "image-steps", partial(descend, batch_size=RESTARTS)),
        "white box, one image at a time": (image_steps, "image-steps", partial(descend, batch_size=1)),
        "black box, all classes": (evaluations, "evaluations", partial(breed, groups=every)),
        "black box, one class at a time": (evaluations, "evaluations", partial(breed, groups=each)),
    }
    return {
        side: Contestant(
            f"{duel.case.name}: {side}", str(threads), work, unit, partial(timed, partial(run, duel, side), duel.device)
        )
        for side, (work, unit, run) in sides.items()
    }


def main() -> None:
    chosen = options()
    about = machine(chosen.device)
    torch.set_num_threads(chosen.threads)
    everyone: list[Contestant] = []
    findings: list[Finding] = []
    notes: list[str] = []
    facts: dict[str, Any] = {"reached": {}, "tolerance": TOLERANCE}
    apart: list[str] = []
    for case in CASES:
        progress(f"training the network of {case.name}")
        duel = prepare(case, chosen.scale, chosen.device)
        sides = contestants_of(duel, chosen.threads)
        progress("warming up")
        for contestant in sides.values():
            contestant.run()
        alternate(list(sides.values()), chosen.rounds)
        everyone += sides.values()
        for attack, rivals in (
            ("white box", ("one class at a time", "one image at a time")),
            ("black box", ("one class at a time",)),
        ):
            ours = f"{attack}, all classes"
            for rival in rivals:
                side = f"{attack}, {rival}"
                findings.append(ratio(f"{case.name}: {attack}, all classes / {rival}", sides[ours], sides[side]))
                if abs(duel.reached[side] / duel.reached[ours] - 1) > TOLERANCE:
                    apart.append(f"{case.name}, {side}")
        facts["reached"][case.name] = duel.reached
        notes.append(
            f"{case.name}: mean loss after {duel.steps} steps {duel.reached['white box, all classes']:.4f}, mean best "
            f"fitness after {duel.generations} generations {duel.reached['black box, all classes']:.4f}"
        )
    report("inversion", __doc__ or "", chosen, about, everyone, findings, notes=notes, facts=facts)
    if apart:
        raise SystemExit(f"what was reached differs by more than {TOLERANCE:.0%}, the ratios are void: {apart}")


if __name__ == "__main__":
    main()
