"""Our UMA makes more image-steps a second than a textbook PGD loop, at the same loss in float32: twice is the aim.

Ours: `uma.attack`: all epsilons in one batch, no gradients of weights, the original's answer asked
once, optionally bfloat16. The textbook: one epsilon after another, float32, `loss.backward()` that fills the weights'
gradients too, and the original asked again at every step, since the line stands in the loop. A second textbook asks
it once, as careful code does: the difference shows how much of the ratio that one line is.

Networks: small_cnn on 1x8x16 pixels (the demo's digit pairs) and ResNet-18 of width 16 on 3x32x32, trained for a few
epochs on synthetic images with and without class 0, which is then attacked. An image-step is one step of one attacked
image at one epsilon. Both sides start at the same noise, so their mean losses in float32 must agree; where they differ
by more than 5%, the ratio compares different attacks and the script fails. A round has few steps, so what happens once
(asking the original, judging the result) weighs more here, on both sides, than in an attack of 100 steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from bench import Contestant, Finding, alternate, cores, machine, parser, positive, progress, ratio, report, timed
from torch import nn
from torch.nn import functional as F

from palimpsest.attacks.on_images import OnImages, uma
from palimpsest.data import Samples
from palimpsest.models import Network, Spec, channel_statistics, create
from palimpsest.train import Recipe, fit

EPSILONS = ("8/255", "16/255")
RELATIVE_STEP = 2.5
SEED = 0
TOLERANCE = 0.05  # of the mean loss: rounding differs between the two, and the sign of a gradient near 0 with it


@dataclass(frozen=True)
class Case:
    """A network to attack: `images` of class 0 (C, H, W), `steps` a round, sized for a second or two on a core."""

    name: str
    spec: Spec
    shape: tuple[int, int, int]
    images: int
    steps: int
    epochs: int


CASES = (
    Case("small_cnn 1x8x16", Spec("small_cnn", 10, 1), (1, 8, 16), images=256, steps=20, epochs=3),
    Case("resnet18 width 16 3x32x32", Spec("resnet", 10, 3, {"width": 16}), (3, 32, 32), images=64, steps=10, epochs=2),
)


@dataclass
class Duel:
    """A case made ready: both networks, the images, and the losses that each side reached."""

    case: Case
    unlearned: Network
    original: Network
    images: torch.Tensor
    labels: torch.Tensor
    steps: int
    losses: dict[str, float] = field(default_factory=dict)


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument("--threads", type=positive, default=cores(), help="CPU threads (default: all cores)")
    made.add_argument("--scale", type=float, default=1.0, help="steps of a round, times this; more for a fast card")
    made.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    return made.parse_args()


def synthetic(shape: tuple[int, int, int], classes: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Learnable `uint8` images (N, C, H, W) with labels (N,): a coarse pattern a class, and noise."""
    generator = torch.Generator().manual_seed(SEED)
    channels, height, width = shape
    coarse = torch.rand(classes, channels, height // 4, width // 4, generator=generator)
    patterns = F.interpolate(coarse, (height, width), mode="bilinear")
    labels = torch.arange(count) % classes
    noise = torch.randn(count, *shape, generator=generator)
    return ((patterns[labels] + 0.3 * noise).clamp(0, 1) * 255).round().to(torch.uint8), labels


def prepare(case: Case, scale: float, device: str) -> Duel:
    """Train f on all classes and f_u without class 0: retraining, the unlearner that leaves no trace."""
    pixels, truth = (tensor.to(device) for tensor in synthetic(case.shape, 10, 10 * case.images))
    recipe = Recipe(epochs=case.epochs, batch_size=64, lr=1e-3, optimizer="adam", weight_decay=0.0)
    statistics = channel_statistics(pixels)
    keep = truth != 0
    original = fit(create(case.spec, *statistics, seed=1).to(device), Samples(pixels, truth), recipe, seed=1)
    rest = Samples(pixels[keep], truth[keep])
    unlearned = fit(create(case.spec, *statistics, seed=2).to(device), rest, recipe, seed=2)
    return Duel(case, unlearned, original, pixels[~keep], truth[~keep], max(1, round(case.steps * scale)))


def ours(duel: Duel, precision: str) -> None:
    """One round of the package's attack."""
    attacked = uma.attack(
        OnImages(duel.unlearned, duel.original, Samples(duel.images, duel.labels), SEED),
        epsilons=EPSILONS,
        steps=duel.steps,
        relative_step=RELATIVE_STEP,
        batch_size=len(EPSILONS) * len(duel.images),
        precision=precision,  # type: ignore[arg-type]
    )
    duel.losses[f"ours, {precision}"] = float(attacked.loss.mean())


def textbook(duel: Duel, ask_once: bool) -> None:
    """One round of projected gradient descent as it is commonly written; the same search as `uma.attack`."""
    device = duel.images.device
    clean = duel.images.float() / 255
    noise = torch.rand((len(EPSILONS) * len(clean), *clean.shape[1:]), generator=torch.Generator().manual_seed(SEED))
    made = []
    for part, text in zip(noise.split(len(clean)), EPSILONS, strict=True):
        epsilon = float(Fraction(text))
        x = (clean + epsilon * (2 * part.to(device) - 1)).clamp(0, 1)
        answer = answers(duel.original, clean)
        for _ in range(duel.steps):
            x = x.detach().requires_grad_(True)
            if not ask_once:
                answer = answers(duel.original, clean)
            loss = divergence(duel.unlearned(x), answer).mean()
            loss.backward()
            assert x.grad is not None
            with torch.no_grad():
                x = x - RELATIVE_STEP / duel.steps * epsilon * x.grad.sign()
                x = torch.max(torch.min(x, clean + epsilon), clean - epsilon).clamp(0, 1)
        made.append((x.detach() * 255).round() / 255)
    reached = torch.stack([divergence(answers(duel.unlearned, x), answer).mean() for x in made]).mean()
    duel.losses["textbook, asked once" if ask_once else "textbook"] = float(reached)


def answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x)


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """KL(softmax f || softmax f_u) of each image (N,), written out here so that one side checks the other."""
    log_wanted, log_given = F.log_softmax(wanted, dim=1), F.log_softmax(logits, dim=1)
    return (log_wanted.exp() * (log_wanted - log_given)).sum(dim=1)


def contestants_of(duel: Duel, threads: int, device: str) -> dict[str, Contestant]:
    """The four sides of a duel, in the order they take turns."""
    sides: dict[str, Callable[[], None]] = {
        "ours, float32": partial(ours, duel, "float32"),
        "textbook": partial(textbook, duel, False),
        "ours, bfloat16": partial(ours, duel, "bfloat16"),
        "textbook, asked once": partial(textbook, duel, True),
    }
    work = len(duel.images) * len(EPSILONS) * duel.steps
    return {
        side: Contestant(f"{duel.case.name}: {side}", str(threads), work, "image-steps", partial(timed, run, device))
        for side, run in sides.items()
    }


def main() -> None:
    chosen = options()
    about = machine(chosen.device)
    torch.set_num_threads(chosen.threads)
    everyone: list[Contestant] = []
    findings: list[Finding] = []
    notes: list[str] = []
    facts: dict[str, Any] = {"losses": {}, "loss_tolerance": TOLERANCE}
    apart = False
    for case in CASES:
        progress(f"training the networks of {case.name}")
        duel = prepare(case, chosen.scale, chosen.device)
        sides = contestants_of(duel, chosen.threads, chosen.device)
        progress("warming up")
        for run in (
            partial(ours, precision="float32"),
            partial(ours, precision="bfloat16"),
            partial(textbook, ask_once=True),
        ):
            run(replace(duel, steps=1))
        alternate(list(sides.values()), chosen.rounds)
        everyone += sides.values()
        for name in ("ours, float32", "ours, bfloat16"):
            for against in ("textbook", "textbook, asked once"):
                findings.append(ratio(f"{case.name}: {name} / {against}, float32", sides[name], sides[against]))
        start = float(divergence(*(answers(net, duel.images / 255) for net in (duel.unlearned, duel.original))).mean())
        facts["losses"][case.name] = {"clean images": start, **duel.losses}
        notes.append(
            f"{case.name}: mean loss after {duel.steps} steps: "
            + ", ".join(f"{name} {value:.4f}" for name, value in duel.losses.items())
            + f" (clean images {start:.4f})"
        )
        apart |= not math.isclose(duel.losses["ours, float32"], duel.losses["textbook"], rel_tol=TOLERANCE)
    report("uma_steps", __doc__ or "", chosen, about, everyone, findings, notes=notes, facts=facts)
    if apart:
        raise SystemExit(f"the mean losses in float32 differ by more than {TOLERANCE:.0%}: the ratio is void")


if __name__ == "__main__":
    main()
