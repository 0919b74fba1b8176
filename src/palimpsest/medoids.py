"""Medoids: those `count` of N points that have the least sum of distances from every point to its nearest medoid.

Medoids are found in two stages, as the malicious paper does (its Section 4). BUILD takes one point after the other,
always the one that lowers the sum most (eq. 4). SWAP exchanges a medoid for another point for as long as that lowers
the sum (eq. 5). What is left is a local optimum, which no single exchange improves.

The paper estimates both stages by bandits, which is fast where there are few medoids, and it wants up to 40% of all
points. Both stages are exact here. What BUILD gains by a point only falls as more points are taken (the sum is
submodular), so an old gain bounds the new one, and only the points on top of a heap are evaluated again (lazy greedy;
Minoux, 1978). SWAP is FasterPAM (Schubert and Rousseeuw, Information Systems 2021): one pass over the distances of a
point to all others tells its best exchange against every medoid at once, and an exchange that lowers the sum is done at
once. A pass over all points costs O(N (N + count)).
"""

from __future__ import annotations

import heapq
import logging
from typing import NamedTuple

import numpy as np
import torch

log = logging.getLogger(__name__)

ROUNDING = 1e-14  # of the squared lengths: a squared distance below it is that of equal points


class Clusters(NamedTuple):
    """Points by their nearest medoid.

    medoids: `int64` (k,), ascending. assignment: `int64` (N,), which of the medoids each point belongs to; a medoid
    belongs to itself. sizes: `int64` (k,), how many points belong to each, at least 1. cost: the sum of distances.
    """

    medoids: torch.Tensor
    assignment: torch.Tensor
    sizes: torch.Tensor
    cost: float


def distances_of(gram: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distances (N, N) of points by their inner products, `float64` (N, N)."""
    lengths = gram.diagonal()
    both = lengths[:, None] + lengths
    squares = both - (gram + gram.T)  # a matrix product need not be symmetric to the last bit, and SWAP needs it so
    return squares.masked_fill_(squares <= ROUNDING * both, 0).fill_diagonal_(0).sqrt_()


def cluster(distances: torch.Tensor, count: int) -> Clusters:
    """Return up to `count` medoids of N points with these distances, (N, N), symmetric with zeros on the diagonal.

    There are fewer where fewer leave no point at a distance: a further one would be the copy of another. What is
    returned is on the CPU. Raises `ValueError` where `count` is not in 1..N.
    """
    d = distances.detach().cpu().double().numpy()
    if not 1 <= count <= len(d):
        raise ValueError(f"{count} medoids of {len(d)} points")
    chosen = build(d, count)
    exchanged = swap(d, chosen) if 1 < len(chosen) < len(d) else chosen
    medoids = np.sort(exchanged)
    to = d[medoids]
    assignment = to.argmin(0)
    assignment[medoids] = np.arange(len(medoids))
    found = Clusters(
        torch.from_numpy(medoids),
        torch.from_numpy(assignment),
        torch.from_numpy(np.bincount(assignment, minlength=len(medoids))),
        float(to.min(0).sum()),
    )
    log.info("%d medoids of %d points, mean distance %.3g", len(medoids), len(d), found.cost / len(d))
    return found


def build(d: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` points (k,) in the order in which the greedy choice takes them; of equals the first.

    d: distances, `float64` (N, N). It ends early where no point lowers the sum any more.
    """
    chosen = [int(d.sum(1).argmin())]
    nearest = d[chosen[0]].copy()
    # What each point would gain, negative for the heap, and how many medoids there were when that was computed.
    gains = np.concatenate([_gains(rows, nearest) for rows in np.array_split(d, len(d) // 500 + 1)])
    heap = [(-gain, point, 1) for point, gain in enumerate(gains.tolist()) if point != chosen[0]]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        gain, point, at = heap[0]
        if at < len(chosen):
            heapq.heapreplace(heap, (-float(_gains(d[point], nearest)), point, len(chosen)))
        elif gain < 0:
            heapq.heappop(heap)
            chosen.append(point)
            np.minimum(nearest, d[point], out=nearest)
        else:
            break
    return np.array(chosen)


def swap(d: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """Return `medoids` (k,) after all exchanges that lower the sum of distances; 1 < k < N.

    d: distances, `float64` (N, N). The points are tried in turn, and it ends when each was tried since the last
    exchange.
    """
    medoids, count, points = medoids.copy(), len(medoids), len(d)
    first, second, near, far = _nearest_two(d[:, medoids])
    is_medoid = np.zeros(points, dtype=bool)
    is_medoid[medoids] = True
    cost = near.sum()
    lost = np.bincount(first, far - near, count)  # what it costs to do without each medoid
    point, tried, done = 0, 0, 0
    while tried < points:
        row = d[point]
        if not is_medoid[point]:
            moved = np.flatnonzero(row < far)  # those whose nearest two change if this point becomes a medoid
            at, to, instead = row[moved], near[moved], far[moved]
            # Those that come to this point in any case, and what is not lost with a medoid since they have this one.
            won = np.minimum(at - to, 0).sum()
            change = lost + np.bincount(first[moved], np.maximum(at, to) - instead, count)
            worst = int(change.argmin())
            # Where a few distances are far longer than all others, a change of the sum may be rounding; a sum is not.
            then = np.minimum(row, np.where(first == worst, far, near)).sum() if won + change[worst] < 0 else cost
            if then < cost:
                is_medoid[medoids[worst]], is_medoid[point] = False, True
                medoids[worst] = point
                again = (first == worst) | (second == worst)
                closer, between = row < near, (row >= near) & (row < far)
                second[closer], far[closer] = first[closer], near[closer]
                first[closer], near[closer] = worst, row[closer]
                second[between], far[between] = worst, row[between]
                first[again], second[again], near[again], far[again] = _nearest_two(
                    d[np.flatnonzero(again)[:, None], medoids]
                )
                lost = np.bincount(first, far - near, count)
                cost, tried, done = then, 0, done + 1
        point, tried = (point + 1) % points, tried + 1
    log.info("%d exchanges of medoids", done)
    return medoids


def _gains(rows: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """By how much the sum of distances falls with each of some points, whose distances to all are `rows` (…, N)."""
    found: np.ndarray = np.maximum(nearest - rows, 0).sum(-1)
    return found


def _nearest_two(to: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return each point's nearest and second nearest medoid, and the distances to both, four times (N,); to: (N, k)."""
    every = np.arange(len(to))
    first = to.argmin(1)
    near = to[every, first]
    to[every, first] = np.inf
    second = to.argmin(1)
    return first, second, near, to[every, second]
