"""Training 200 auxiliary heads as one batch is some 40 times as fast as one by one, on one thread.

Ours: `label_leakage.attack`, 20 heads for each of ten classes on LeNet's 84 features, at its defaults (100 images
a head, 20 epochs in batches of 10, Adam 1e-3). The other side trains the same heads, subsets, starts and orders one
after the other: `nn.Linear`, `F.cross_entropy`, `torch.optim.Adam`, on the same features, computed once. A second
textbook does what most code for frozen networks does: it sends every batch through the whole frozen network again.

One by one takes long, so a round of the textbooks trains fewer heads (--alone, --textbook) and counts heads a second;
their heads cost the same each. All sides begin with the same weights, so the heads they share must come out alike:
where a weight differs by more than 1e-3 the ratio compares different work and the script fails.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from bench import Contestant, alternate, machine, parser, positive, progress, ratio, report, timed
from torch import nn
from torch.nn import functional as F

from palimpsest.attacks.on_labels import OnLabels, _heads, label_leakage
from palimpsest.data import Samples
from palimpsest.models import Network, Spec, create

CLASSES, SUBSETS, SUBSET_SIZE, EPOCHS, BATCH_SIZE, LR, SEED = 10, 20, 100, 20, 10, 1e-3, 0
TOLERANCE = 1e-3  # rounding, which Adam's division magnifies where gradients are near zero


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument("--alone", type=positive, default=20, help="heads a round, one by one (default: %(default)s)")
    made.add_argument(
        "--textbook", type=positive, default=5, help="heads a round through the whole network (default: %(default)s)"
    )
    return made.parse_args()


def ours(model: Network, images: torch.Tensor, labels: torch.Tensor, made: dict[str, torch.Tensor]) -> None:
    """One round of the package's training, features included."""
    made["ours"] = label_leakage.attack(
        OnLabels(model, images.shape[1:], CLASSES, SEED, own_samples=Samples(images, labels)),
        subsets=SUBSETS,
        subset_size=SUBSET_SIZE,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        lr=LR,
    ).weight


def one_by_one(
    model: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    made: dict[str, torch.Tensor],
    *,
    heads: int,
    cached: bool,
) -> None:
    """One round of a loop over heads, on features computed once (`cached`) or at every step."""
    inputs = _heads.features(model, images) if cached else images
    layer = _heads.final_layer(model)
    body = nn.Sequential(*list(model.net)[:-1])
    weights = []
    for head in range(heads):
        name = (SEED, *divmod(head, SUBSETS))
        pool = (labels == name[1]).nonzero().flatten()
        index = pool[_heads.subset(len(pool), SUBSET_SIZE, *name)]
        fresh = nn.Linear(layer.in_features, layer.out_features)
        with torch.no_grad():
            for parameter, start in zip(fresh.parameters(), _heads.initial(layer, "torch", *name), strict=True):
                parameter.copy_(start)
        adam = torch.optim.Adam(fresh.parameters(), lr=LR)
        for (part,) in _heads.batches(index[None], [name], EPOCHS, BATCH_SIZE):
            x, y = inputs[part], labels[part]
            if not cached:
                with torch.no_grad():
                    x = body((x.float() / 255 - model.mean) / model.std)
            adam.zero_grad()
            F.cross_entropy(fresh(x), y).backward()
            adam.step()
        weights.append(fresh.weight.detach())
    made["one by one" if cached else "whole network"] = torch.stack(weights)


def main() -> None:
    chosen = options()
    about = machine()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.arange(CLASSES * 2 * SUBSET_SIZE) % CLASSES
    images = torch.randint(256, (len(labels), 1, 28, 28), generator=generator, dtype=torch.uint8)
    model = create(Spec("lenet", CLASSES, 1), torch.tensor([0.5]), torch.tensor([0.3]), SEED)
    made: dict[str, torch.Tensor] = {}
    data = (model, images, labels, made)
    sides = [
        Contestant("one batch", "1", CLASSES * SUBSETS, "heads", partial(timed, partial(ours, *data))),
        Contestant(
            "one by one",
            "1",
            chosen.alone,
            "heads",
            partial(timed, partial(one_by_one, *data, heads=chosen.alone, cached=True)),
        ),
        Contestant(
            "one by one, whole network",
            "1",
            chosen.textbook,
            "heads",
            partial(timed, partial(one_by_one, *data, heads=chosen.textbook, cached=False)),
        ),
    ]
    progress("warming up")
    ours(*data)
    for cached in (True, False):
        one_by_one(*data, heads=1, cached=cached)
    alternate(sides, chosen.rounds)
    findings = [ratio(f"one batch / {other.name}", sides[0], other) for other in sides[1:]]
    apart = max(
        float((made["ours"][: len(made[name])] - made[name]).abs().max()) for name in ("one by one", "whole network")
    )
    notes = [f"largest difference between two sides' weights: {apart:.1e}"]
    facts = {"largest_difference": apart, "tolerance": TOLERANCE}
    report("auxiliary_heads", __doc__ or "", chosen, about, sides, findings, notes=notes, facts=facts)
    if apart > TOLERANCE:
        raise SystemExit(f"the sides' heads differ by more than {TOLERANCE}: the ratio is void")


if __name__ == "__main__":
    main()
