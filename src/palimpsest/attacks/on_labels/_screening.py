"""The decision rules of inversion attacks: which classes a network forgot, judged from one inverted input of each
class.

Row k of `probabilities` (K, K) is the prediction vector of the input that an inversion attack made for class k.

The threshold rule (label-leakage paper, Section IV-C4, eq. 27-30), with p_k the largest entry of row k, and mu and
sigma their mean and standard deviation (over K, not K - 1):

    forgotten = { k : p_k < mu - coefficient * sigma }

The coefficient is not in the paper's text; 1.0 is our decision (docs/methods.md 2.8). Where m of K classes have one low
value and the others one high value, a low one lies sqrt((K - m) / m) sigma below the mean. So at coefficient 1 the rule
cannot name half of the classes or more, and among unequal values of classes that were all kept it names some as well.

The entropy rule (Section IV-C4, eq. 31): the entries of each row are sorted, so that the order of the classes plays no
part; k-means with k = 2 splits the rows; the cluster with the higher mean entropy is the forgotten one. Where there are
two clusters to be found it always names some class, also in a network that forgot nothing.

There are two deviations. The paper names the classes of that cluster by the argmax of each of its vectors. That is
another class wherever the inversion failed, and inversion fails most where a class was forgotten.
`variant="as_published"` does that; the default names the class that the inversion aimed at. And vectors that differ by
rounding alone say nothing: below `resolution` neither rule sees a difference, so in a network whose inversions all
reach a probability of one no class is called forgotten. The literal rules have `resolution=0`.

Both inversion attacks end here and pass nothing but these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from sklearn.cluster import KMeans

from palimpsest.attacks.on_labels import Judgement
from palimpsest.ranges import checked


@checked
def threshold(
    probabilities: torch.Tensor,
    *,
    coefficient: Annotated[float, "[0, inf)"] = 1.0,
    score: Literal["max", "target"] = "max",
    resolution: Annotated[float, "[0, inf)"] = 1e-6,
) -> torch.Tensor:
    """Return which classes the threshold rule calls forgotten: bool (K,), on the CPU, from prediction vectors (K, K).

    coefficient [R]: how many standard deviations below the mean. score: what p_k is, the `max` [P] of row k or [R] the
    probability of class k itself; the latter is also low where the inversion ended in another class of which the
    network is sure. resolution [R]: how far below the threshold p_k must lie; float32 rounds away this much in a
    softmax. Raises `ValueError` unless there is one vector of K probabilities for each of K classes.
    """
    vectors = _checked(probabilities)
    p = vectors.amax(1) if score == "max" else vectors.diagonal()
    return p < p.mean() - coefficient * p.std(correction=0) - resolution


@checked
def entropy(
    probabilities: torch.Tensor,
    *,
    variant: Literal["corrected", "as_published"] = "corrected",
    restarts: Annotated[int, "[1, inf)"] = 10,
    seed: int = 0,
    resolution: Annotated[float, "[0, inf)"] = 1e-6,
) -> torch.Tensor:
    """Return which classes the entropy rule calls forgotten: bool (K,), on the CPU, from prediction vectors (K, K).

    variant: which class a vector stands for, `corrected` [R] the one it was made for, `as_published` [P] its argmax.
    restarts, seed [R]: those of k-means, which the paper does not describe; K points are few, and ten starts find the
    best split. resolution [R]: vectors whose entries, or clusters whose mean entropies, are closer than this count as
    the same. Raises `ValueError` unless there is one vector of K probabilities for each of K classes.
    """
    vectors = _checked(probabilities)
    forgotten = torch.zeros(len(vectors), dtype=torch.bool)
    shape = vectors.sort(1, descending=True).values
    if (shape.amax(0) - shape.amin(0)).amax() <= resolution:
        return forgotten
    split = KMeans(2, n_init=restarts, random_state=seed).fit_predict(shape.numpy())
    second = torch.from_numpy(split).bool()
    each = torch.special.entr(vectors).sum(1)
    difference = float(each[second].mean() - each[~second].mean())
    if abs(difference) <= resolution:
        return forgotten
    suspects = second if difference > 0 else ~second
    if variant == "corrected":
        return suspects
    forgotten[vectors[suspects].argmax(1)] = True
    return forgotten


def judge(
    probabilities: torch.Tensor,
    *,
    seed: int,
    coefficients: Sequence[float] = (1.0,),
    score: Literal["max", "target"] = "max",
) -> Judgement:
    """Apply both rules to the prediction vectors (K, K) of one server's inverted inputs.

    coefficients: those of the threshold rule; the first one's decisions are called `threshold`, another's `threshold
    0.5`.
    """
    named = {"threshold" if number == 0 else f"threshold {one:g}": one for number, one in enumerate(coefficients)}
    decisions = {name: threshold(probabilities, coefficient=one, score=score) for name, one in named.items()}
    decisions["entropy"] = entropy(probabilities, seed=seed % 2**32)
    decisions["entropy_as_published"] = entropy(probabilities, seed=seed % 2**32, variant="as_published")
    every = torch.arange(len(probabilities))
    return Judgement(decisions, {"max_probability": (probabilities.amax(1).cpu(), every)})


def _checked(probabilities: torch.Tensor) -> torch.Tensor:
    """`probabilities` in float64 on the CPU; `ValueError` unless they are K rows of K probabilities."""
    if probabilities.ndim != 2 or probabilities.shape[0] != probabilities.shape[1] or not len(probabilities):
        raise ValueError(f"screening takes one vector of K probabilities a class, (K, K), not {probabilities.shape}")
    vectors = probabilities.detach().cpu().double()
    if not ((vectors >= 0).all() and torch.allclose(vectors.sum(1), torch.ones(len(vectors)).double(), atol=1e-3)):
        raise ValueError("screening takes probabilities: no entry below zero, and each row sums to one")
    return vectors
