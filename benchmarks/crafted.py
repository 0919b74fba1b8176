"""Crafting 40 requests against a dense network as one batch is some twice as fast as a plain loop over the attempts.

Ours: `requests.crafted` on a network of 1,280-128-2 (the malicious-requests paper's on Dogfish), 40 attempts of 72
samples each, against `first_order`, through `choose_all`. The other side is a plain loop over the attempts, Algorithm 1
as it is written: in each step the gradients of the changed samples with their graph, the weights after unlearning, the
loss at the test image, and one backward pass through all of it. Both take the same samples from the same starts, so
what they submit must come out alike: where a feature differs by more than 1e-4 the script fails.

Most of a step's time is arithmetic, of which the loop leaves little to save: five products of samples and weights, of
which ours needs two. So a CPU core gains about that, and not the ten times that overhead would give away.

What both spend before the first step (drawing, and the gradient of the samples as they are) is not left out. A loop
takes long, so a round of it makes fewer attempts (--alone) and counts steps a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from bench import Contestant, alternate, machine, parser, positive, progress, ratio, report, timed
from torch.func import functional_call
from torch.nn import functional as F

from palimpsest.data import Images
from palimpsest.models import Network, Spec, create
from palimpsest.requests import Choice, Request, crafted
from palimpsest.train import Recipe
from palimpsest.unlearners import first_order

FEATURES, HIDDEN, CLASSES, TRAIN, ATTEMPTS, SAMPLES = 1280, 128, 2, 1800, 40, 72
TAU, EPSILON, RATE, DECAY_EVERY, BETA = 0.02, "8/255", 1e-3, 60, 1e9
TOLERANCE = 1e-4


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument("--threads", type=positive, default=1, help="of both sides (default: %(default)s)")
    made.add_argument("--steps", type=positive, default=60, help="of each attempt (default: %(default)s)")
    made.add_argument("--alone", type=positive, default=4, help="attempts a round, one by one (default: %(default)s)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    return made.parse_args()


def ours(images: Images, ats: Sequence[Choice], steps: int, made: dict[str, list[Request]]) -> None:
    """One round of the package's attempts; `rate` and `beta` keep every step at work and none at a bound."""
    made["ours"] = crafted.choose_all(
        images,
        ats,
        count=SAMPLES,
        epsilon=EPSILON,
        steps=steps,
        rate=RATE,
        decay_every=DECAY_EVERY,
        beta=BETA,
        keeps="last",
    )


def one_by_one(
    images: Images, model: Network, steps: int, starts: Sequence[Request], made: dict[str, torch.Tensor]
) -> None:
    """One round of the plain loop, from the same samples and noise and at the same test images."""
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    device, bound, found = parameters[0].device, 8 / 255, []
    for start in starts:
        assert start.replacement and start.aim
        x, y = (part[start.indices.to(device)] for part in images.splits["train"])
        target = images.splits["test"].images[start.aim.indices.to(device)]
        wanted = int(start.aim.labels)
        delta = x - start.replacement.images.to(device)
        clean = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), parameters)
        for step in range(steps):
            delta = delta.detach().requires_grad_()
            loss = F.cross_entropy(model(x - delta), y, reduction="sum")
            changed = torch.autograd.grad(loss, parameters, create_graph=True)
            theta = [p - TAU * (new - old) for p, new, old in zip(parameters, changed, clean, strict=True)]
            (logits,) = functional_call(model, dict(zip(names, theta, strict=True)), (target,))
            psi = (logits[1 - wanted] - logits[wanted]).clamp(min=-BETA)
            (slope,) = torch.autograd.grad(psi, delta)
            delta = (delta - RATE / 10 ** (step // DECAY_EVERY) * slope).clamp(-bound, bound)
        found.append((x - delta).detach())
    made["one by one"] = torch.stack(found).cpu()


def main() -> None:
    chosen = options()
    about = machine(chosen.device)
    torch.set_num_threads(chosen.threads)
    generator = torch.Generator().manual_seed(0)
    labels, places = torch.arange(TRAIN) % CLASSES, torch.arange(100) % CLASSES
    images = Images.of(
        ("fish", "dog"),
        train=(torch.rand(TRAIN, FEATURES, generator=generator), labels),
        test=(torch.rand(100, FEATURES, generator=generator), places),
    ).to(chosen.device)
    spec = Spec("dense", CLASSES, FEATURES, {"hidden": HIDDEN})
    model = create(spec, torch.zeros(1, FEATURES), torch.ones(1, FEATURES), 1).to(chosen.device)
    against, recipe = partial(first_order.unlearn, tau=TAU), Recipe(epochs=1, batch_size=64, lr=0.01)
    ats = [Choice(0, number, model, against, recipe=recipe) for number in range(ATTEMPTS)]
    requests: dict[str, list[Request]] = {}
    alone: dict[str, torch.Tensor] = {}
    starts = crafted.choose_all(images, ats[: chosen.alone], count=SAMPLES, epsilon=EPSILON, steps=0)
    sides = [
        Contestant(name, str(chosen.threads), count * chosen.steps, "steps", partial(timed, run, chosen.device))
        for name, count, run in (
            ("one batch", ATTEMPTS, partial(ours, images, ats, chosen.steps, requests)),
            ("one by one", chosen.alone, partial(one_by_one, images, model, chosen.steps, starts, alone)),
        )
    ]
    progress("warming up")
    for side in sides:
        side.run()
    alternate(sides, chosen.rounds)
    both = zip(requests["ours"], alone["one by one"], strict=False)
    apart = max(float((one.replacement.images - other).abs().max()) for one, other in both if one.replacement)
    notes = [f"largest difference between two sides' samples: {apart:.1e}"]
    facts = {"largest_difference": apart, "tolerance": TOLERANCE}
    findings = [ratio("attack steps: one batch / one by one", *sides)]
    report("crafted", __doc__ or "", chosen, about, sides, findings, notes=notes, facts=facts)
    if apart > TOLERANCE:
        raise SystemExit(f"the sides' samples differ by more than {TOLERANCE}: the ratio is void")


if __name__ == "__main__":
    main()
