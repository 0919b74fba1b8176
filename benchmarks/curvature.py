"""Per-sample gradients of LeNet by vmap are twice as fast as a loop over samples, or more, on one CPU core.

Ours: `palimpsest.curvature.per_sample_gradients`, blocks cut to a memory bound. The loop: one forward and one backward
pass a sample, as public unlearning code computes Fisher matrices and WoodFisher's recursion. Both sum the squares of
the gradients, the diagonal of the empirical Fisher matrix, and must agree, or the script fails. A loop is slow because
of what a pass costs before any arithmetic: a CPU core has little of that to save, a card should gain more.

The third contestant takes LiSSA steps, Hessian times vector over a batch of 1024, as second-order unlearning does;
its speed has no rival here and is there to plan a depth by.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from bench import Contestant, alternate, cores, machine, parser, positive, progress, ratio, report, timed
from torch.nn import functional as F

from palimpsest.curvature import fisher_diagonal, flat, hessian_product, lissa, weights
from palimpsest.data import Samples
from palimpsest.models import Network, Spec, create

LISSA_BATCH = 1024
TOLERANCE = 1e-3  # of the diagonal's norm: sums in another order


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument("--threads", type=positive, default=cores(), help="CPU threads (default: all cores)")
    made.add_argument("--images", type=positive, default=512, help="images of a round (default: %(default)s)")
    made.add_argument("--steps", type=positive, default=5, help="LiSSA steps of a round (default: %(default)s)")
    made.add_argument("--memory", type=positive, default=2**29, help="bytes of a block (default: %(default)s)")
    made.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    return made.parse_args()


def synthetic(count: int, device: str) -> Samples:
    """Random `uint8` images (N, 1, 28, 28) and labels (N,): what a gradient costs does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Samples(images.to(device), torch.randint(10, (count,), generator=generator).to(device))


def looped(model: Network, samples: Samples) -> torch.Tensor:
    """The Fisher diagonal (P,), one sample after another."""
    model.eval()
    parameters = list(model.parameters())
    total = torch.zeros_like(weights(model))
    for image, label in zip(*samples, strict=True):
        loss = F.cross_entropy(model(image[None].float() / 255), label[None])
        total += flat(torch.autograd.grad(loss, parameters)).square()
    return total / len(samples.labels)


def steps(model: Network, samples: Samples, depth: int) -> torch.Tensor:
    """`depth` LiSSA steps on the whole of `samples`."""
    vector = torch.ones_like(weights(model))
    return lissa(lambda u, _: hessian_product(model, samples, u), vector, damping=1e-4, scale=1e3, depth=depth)


def main() -> None:
    chosen = options()
    about = machine(chosen.device)
    torch.set_num_threads(chosen.threads)
    model = create(Spec("lenet", 10, 1), torch.tensor([0.13]), torch.tensor([0.31]), seed=0).to(chosen.device)
    samples, batch = synthetic(chosen.images, chosen.device), synthetic(LISSA_BATCH, chosen.device)
    progress("warming up")
    by_vmap, by_loop = fisher_diagonal(model, samples, memory=chosen.memory), looped(model, samples)
    steps(model, batch, 1)
    apart = float((by_vmap - by_loop).norm() / by_loop.norm())
    if apart > TOLERANCE:
        raise SystemExit(f"the two Fisher diagonals differ by {apart:.2g} of their norm; the ratio would mean nothing")

    def contestant(name: str, work: int, unit: str, action: object) -> Contestant:
        return Contestant(f"LeNet: {name}", str(chosen.threads), work, unit, partial(timed, action, chosen.device))  # type: ignore[arg-type]

    vmapped = contestant(
        "per-sample gradients by vmap",
        chosen.images,
        "gradients",
        partial(fisher_diagonal, model, samples, memory=chosen.memory),
    )
    loop = contestant("loop over samples", chosen.images, "gradients", partial(looped, model, samples))
    stepping = contestant(
        f"LiSSA, batches of {LISSA_BATCH}", chosen.steps, "steps", partial(steps, model, batch, chosen.steps)
    )
    contestants = [vmapped, loop, stepping]
    alternate(contestants, chosen.rounds)
    findings = [ratio("LeNet: per-sample gradients, vmap / loop over samples", vmapped, loop)]
    notes = [f"the two Fisher diagonals differ by {apart:.1g} of their norm"]
    report("curvature", __doc__ or "", chosen, about, contestants, findings, notes=notes)


if __name__ == "__main__":
    main()
