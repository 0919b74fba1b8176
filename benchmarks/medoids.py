"""A class's medoids by lazy greedy BUILD and FasterPAM are found ten times as fast as by PAM, or more, on one core.

Ours: `palimpsest.medoids`, as the malicious paper's defense uses it. PAM as the paper writes it (its eq. 4 and 5):
BUILD evaluates every point at every step, SWAP every pair of a medoid and another point, takes the best exchange, and
begins again until none improves. It evaluates all points against one medoid as one matrix, so that no Python is timed.

On 900 gradients of which 180 shall be medoids, as in a class of Dogfish, both run to their end, and both sums of
distances must agree to 1%, or the script fails. On 5,000 with 2,000 medoids, as in a class of CIFAR-10, PAM would take
hours. There BUILD is compared by the medoids that it takes, of which PAM takes `--steps`, and a last pass of SWAP, in
which no exchange improves any more, by the pairs that it tries, of which PAM tries those of `--steps` medoids; PAM's
steps cost the same each. PAM needs as many passes as exchanges and one more, ours a few.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from bench import Contestant, alternate, cores, machine, parser, positive, progress, ratio, report, timed

from palimpsest import medoids

SIZES = ((900, 180), (5000, 2000))  # points and medoids
CLASSES, FEATURES = 10, 512
TOLERANCE = 0.01  # of the sum of distances: they end in two local optima


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=3)
    made.add_argument("--threads", type=positive, default=cores(), help="CPU threads (default: all cores)")
    made.add_argument("--steps", type=positive, default=10, help="PAM's steps on 5,000 points (default: %(default)s)")
    return made.parse_args()


def gradients(count: int) -> np.ndarray:
    """Distances (N, N) of last-layer gradients of samples of class 0: most are known well, and some are not."""
    generator = torch.Generator().manual_seed(0)
    sure = 12 * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** 0.5
    logits = torch.randn(count, CLASSES, generator=generator, dtype=torch.float64)
    slopes = (logits + sure * torch.eye(CLASSES, dtype=torch.float64)[0]).softmax(1)
    slopes[:, 0] -= 1
    inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64).relu()
    products = (slopes @ slopes.T) * (1 + inputs @ inputs.T)
    found: np.ndarray = medoids.distances_of(products).numpy()
    return found


def plain_build(d: np.ndarray, count: int) -> np.ndarray:
    """`count` points by eq. 4, every point evaluated at every step."""
    chosen = [int(d.sum(1).argmin())]
    nearest = d[chosen[0]].copy()
    while len(chosen) < count:
        gains = np.maximum(nearest - d, 0).sum(1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        nearest = np.minimum(nearest, d[chosen[-1]])
    return np.array(chosen)


def best_exchange(d: np.ndarray, chosen: np.ndarray, tried: int) -> tuple[float, int, int]:
    """The least sum after an exchange of one of the first `tried` medoids for another point, and which two."""
    to = np.sort(d[chosen], axis=0)[:2]
    others = np.setdiff1d(np.arange(len(d)), chosen)
    best = (float("inf"), 0, 0)
    for place in range(tried):
        left = np.where(d[chosen[place]] == to[0], to[1], to[0])
        sums = np.minimum(left, d[others]).sum(1)
        best = min(best, (float(sums.min()), place, int(others[sums.argmin()])))
    return best


def plain(d: np.ndarray, count: int) -> np.ndarray:
    """PAM to its end."""
    chosen = plain_build(d, count)
    cost = d[chosen].min(0).sum()
    while (best := best_exchange(d, chosen, count))[0] < cost * (1 - 1e-12):
        cost, chosen[best[1]] = best[0], best[2]
    return chosen


def ours(d: np.ndarray, count: int) -> np.ndarray:
    """Both stages of `palimpsest.medoids`."""
    return medoids.swap(d, medoids.build(d, count))


def main() -> None:
    chosen = options()
    about = machine()
    torch.set_num_threads(chosen.threads)
    (few, of_few), (many, of_many) = SIZES
    progress("distances of gradients")
    small, large = gradients(few), gradients(many)
    progress("both to their end, on the smaller set, and ours on the larger")
    sums = [float(small[find(small, of_few)].min(0).sum()) for find in (ours, plain)]
    if abs(sums[0] / sums[1] - 1) > TOLERANCE:
        raise SystemExit(f"the sums of distances are {sums[0]:.6g} and {sums[1]:.6g}; the ratio would mean nothing")
    built = medoids.build(large, of_many)
    ended = medoids.swap(large, built)

    def contestant(name: str, work: float, unit: str, action: object) -> Contestant:
        return Contestant(name, str(chosen.threads), work, unit, partial(timed, action))  # type: ignore[arg-type]

    pairs = many - of_many
    contestants = [
        contestant(f"{few} points: ours", 1, "clusterings", partial(ours, small, of_few)),
        contestant(f"{few} points: PAM", 1, "clusterings", partial(plain, small, of_few)),
        contestant(f"{many} points: BUILD, ours", of_many, "medoids", partial(medoids.build, large, of_many)),
        contestant(f"{many} points: BUILD, plain", chosen.steps, "medoids", partial(plain_build, large, chosen.steps)),
        contestant(f"{many} points: SWAP's pass, ours", of_many * pairs, "pairs", partial(medoids.swap, large, ended)),
        contestant(
            f"{many} points: SWAP's pass, plain",
            chosen.steps * pairs,
            "pairs",
            partial(best_exchange, large, ended, chosen.steps),
        ),
        contestant(f"{many} points: ours, both stages", 1, "clusterings", partial(ours, large, of_many)),
    ]
    alternate(contestants, chosen.rounds)
    findings = [
        ratio(f"medoids, {few} points, 20%: ours / PAM", contestants[0], contestants[1]),
        ratio(f"medoids, {many} points, 40%, BUILD: lazy / plain greedy", contestants[2], contestants[3]),
        ratio(f"medoids, {many} points, 40%, a pass of SWAP: FasterPAM / PAM", contestants[4], contestants[5]),
    ]
    exchanged = len(np.setdiff1d(built, ended))
    notes = [
        f"sums of distances on {few} points: {sums[0]:.6g} (ours), {sums[1]:.6g} (PAM)",
        f"on {many} points at least {exchanged} exchanges: PAM needs as many passes and one more",
    ]
    report("medoids", __doc__ or "", chosen, about, contestants, findings, notes=notes, facts={"sums": sums})


if __name__ == "__main__":
    main()
