"""Label leakage by dot products: heads trained on a forgotten class point less the way the server's own layer does.

    s_j = <w_j, w_server>,   class c is judged forgotten where the mean of s_j over its heads lies below a threshold

(Section IV-B, eq. 17, Figures 9 and 10). Under squared loss, whitened features and orthogonal labels the expected
product with a head of a retained class is the larger one. The paper puts the products of all heads, with labels 0 and
1, into one data set and cuts it in two: either where Youden's J, the true positive rate minus the false positive rate,
is largest, or by k-means with k = 2, where the cluster of the smaller mean is the forgotten one.

The paper's success rate counts classes (eq. 12), its cut is made over heads, and how one becomes the other is not said.
Here [R] the cut is made over heads, and a class is judged by the mean of its heads, since all of them estimate one
number. The printed numbers most likely count heads (docs/methods.md#l-7), which `head_decisions` are.
Youden's index needs to know what was forgotten (docs/methods.md#l-3). So by default [R] the threshold is learnt on
shadow servers that the attacker unlearnt itself. With `oracle_threshold` it is chosen on the target by the truth that
the decisions are scored with; the published numbers most likely are of this kind, which is no attack. k-means needs no
truth, but always finds some class: it cuts a server that forgot nothing too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from palimpsest.attacks.on_labels._heads import Heads, Judged, Known, Vector
from palimpsest.ranges import checked


@checked
def attack(
    heads: Heads,
    shadows: Sequence[Known] = (),
    truth: torch.Tensor | None = None,
    *,
    screening: Literal["youden", "kmeans"] = "youden",
    protocol: Literal["shadow", "oracle_threshold"] = "shadow",
    vector: Literal["weight_and_bias", "weight"] = "weight_and_bias",
    standardise: bool = False,
) -> Judged:
    """Which classes the server behind `heads` forgot.

    heads: trained on the target's features, H of them for K classes. shadows: heads trained as these were on the
    features of servers of which it is known what they forgot; Youden's threshold is learnt on all their products at
    once. truth: bool (K,), what the target forgot, or is said to have; read by `oracle_threshold` alone.
    screening [P]: both are the paper's; k-means reads neither shadows nor truth, whatever the protocol. protocol [R].
    vector: the layer's weights and biases, or its weights [R]. standardise: each server's products less their mean,
    over their standard deviation, which makes servers of different norms comparable [R, not the paper's].

    In the result `scores` are means of products over a class's heads, `values` are the products (standardised where
    asked for), and `head_decisions` the heads below `threshold`; the smaller, the more likely forgotten.
    Raises `ValueError` where the protocol lacks what it needs.
    """
    values = products(heads, vector, standardise)
    if screening == "kmeans":
        threshold = kmeans_threshold(values)
    elif protocol == "oracle_threshold":
        if truth is None:
            raise ValueError("label_leakage_dot: oracle_threshold needs the truth about the target")
        threshold = youden_threshold(values, heads.of_class(truth))
    else:
        if not shadows:
            raise ValueError("label_leakage_dot: Youden's threshold is learnt on shadow servers, and there are none")
        threshold = youden_threshold(
            torch.cat([products(shadow.heads, vector, standardise) for shadow in shadows]),
            torch.cat([shadow.heads.of_class(shadow.forgotten) for shadow in shadows]),
        )
    scores = heads.mean_by_class(values)
    return Judged(scores < threshold, scores, values, values < threshold, threshold)


def products(heads: Heads, vector: Vector = "weight_and_bias", standardise: bool = False) -> torch.Tensor:
    """The dot product of every head with the server, float64 (H,)."""
    ours, server = heads.vectors(vector)
    values = ours @ server
    if standardise:
        # Equal products stay equal: their spread is zero and they say nothing.
        values = (values - values.mean()) / values.std(correction=0).clamp(min=1e-300)
    return values


def youden_threshold(values: torch.Tensor, forgotten: torch.Tensor) -> float:
    """The number below which to say "forgotten", where the true positive rate exceeds the false positive rate most.

    values: (H,). forgotten: bool (H,). Of several such numbers the one that says it least; -inf where none is better
    than saying nothing. It lies half way between two neighbouring values, so that unseen ones have room on both sides.
    Raises `ValueError` where the truth names no value, or all, since a rate is then undefined.
    """
    if not bool(forgotten.any()) or bool(forgotten.all()):
        raise ValueError("label_leakage_dot: Youden's index needs heads of forgotten and of retained classes")
    levels, place = values.double().unique(return_inverse=True)
    positives = torch.bincount(place[forgotten], minlength=len(levels)).cumsum(0)
    negatives = torch.bincount(place[~forgotten], minlength=len(levels)).cumsum(0)
    # The index times both counts: whole numbers, so that ties are ties.
    index = positives * (~forgotten).sum() - negatives * forgotten.sum()
    best = int(index.argmax())
    # At the last level everything is called forgotten and the index is 0, so it is never the best.
    return float((levels[best] + levels[best + 1]) / 2) if index[best] > 0 else float("-inf")


def kmeans_threshold(values: torch.Tensor) -> float:
    """The number half way between the two means that k-means with k = 2 ends with, for values (H,).

    In one dimension the clusters are what lies left and right of a cut, so the best of all cuts is found by trying each
    one: no initialisation, no local optimum. -inf where all values are equal.
    """
    ordered = values.double().sort().values
    ordered, shift = ordered - ordered.mean(), float(ordered.mean())
    if bool(ordered[0] == ordered[-1]):
        return float("-inf")
    left = torch.arange(1, len(ordered), dtype=torch.float64)
    right = len(ordered) - left
    sums = ordered.cumsum(0)[:-1]
    # Of centred values the squares within both clusters are least where sum^2 / left + sum^2 / right is largest.
    cut = int((sums.square() * (1 / left + 1 / right)).argmax())
    return float(sums[cut] / left[cut] - sums[cut] / right[cut]) / 2 + shift
