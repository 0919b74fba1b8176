"""Healing: train an unlearned model on, with samples that were held back in the place of the forgotten (healing paper).

    min_theta CE(remaining data and one spare for each forgotten sample), from the unlearned weights

It is a step of its own, with the request `same`: the forget set is then all that was forgotten. "When one requests to
unlearn an element, we select an instance from [the spare set] that is the most similar; the chosen will be used for the
healing and removed from" it (Section 4). So with `matching: in_order`, the default, each forgotten sample in turn, in
the order of the requests, takes the nearest spare that is left; among equals the first one. Who comes late may then
get a spare that is far. But the spare of a sample does not depend on what is forgotten later (unless through S below),
so a stream of requests that is healed again and again keeps its spares. `assignment` is the choice of the smallest sum
of distances, ours.

How far two samples are (Sections 4 and 5.3.1):

    raw_l2               |a - b| of pixels in [0, 1]
    raw_mahalanobis      sqrt((a - b) S^-1 (a - b)) of pixels
    feature_cosine       1 - <a, b> / (|a| |b|) of features; 1 where one of them is zero
    feature_mahalanobis  sqrt((a - b) S^-1 (a - b)) of features

Features are what enters the last layer of the model before anything was forgotten (`features.penultimate`). S is the
covariance over the training data that remain plus `shrinkage` times its mean variance in every direction: the paper
does not say how it inverts S, which is singular on MNIST, where the corners are always black; 1e-3 [R]. `random` takes
spares at random, the paper's control (Table 5), and `remaining` none. A spare has the label of its sample [R]; the
paper does not say so.

Values: Adam, 1 epoch, or half as many as the base training's, rounded up (Section 5.3.1). The rate is lost; 1e-3, or
1e-4 for networks that began with published weights, as in base training [R]. So are batches of 64 and no weight decay
[R]. An ensemble is trained as one network, so its members no longer keep to their shards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from palimpsest.data import Samples, pixels
from palimpsest.features import penultimate
from palimpsest.models import Network, finite
from palimpsest.seeds import stable_seed
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Step, unlearner

NEEDS = ("original",)
TASKS = ("classification",)

Vectors = Callable[[torch.Tensor], torch.Tensor]
Choose = Callable[[np.ndarray], np.ndarray]
# What is taken between the vectors; Mahalanobis's distance is Euclid's between whitened ones.
METRICS = {
    "raw_l2": "euclidean",
    "raw_mahalanobis": "mahalanobis",
    "feature_cosine": "cosine",
    "feature_mahalanobis": "mahalanobis",
}
BATCH = 4096  # samples at once where a covariance is summed


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    data: Literal[
        "raw_l2", "raw_mahalanobis", "feature_cosine", "feature_mahalanobis", "random", "remaining"
    ] = "raw_l2",
    split: str = "spare",
    matching: Literal["in_order", "assignment"] = "in_order",
    shrinkage: Annotated[float, "(0, inf)"] = 1e-3,
    training: Recipe = Recipe(epochs=1, batch_size=64, lr=1e-3, optimizer="adam", weight_decay=0.0),
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return `model` trained on with spares, and which they were; augmentation and precision are the base recipe's.

    data: which spares, see above. split: where they are held back. Kept are, for each sample of `forget`, `twins`,
    `int64` (n,), the place of its spare in `split`, and `distances`, float64 (n,), how far it is, of random spares by
    `raw_l2`; for `remaining` nothing. Raises `ValueError` where there is no such split, where a class has too few
    spares, where S cannot be inverted, and where features are wanted without the model before anything was forgotten.
    """
    kept: dict[str, torch.Tensor] = {}
    if data != "remaining":
        spares = _spares(at, split, forget.labels)
        generator = np.random.Generator(np.random.PCG64(stable_seed(at.seed, "spares")))
        by, choose = data, in_order if matching == "in_order" else assignment
        if data == "random":
            by, choose = "raw_l2", partial(drawn, generator=generator)
        vectors = vectors_of(by, retain.images, at.original, shrinkage)
        kept["twins"], kept["distances"] = twins(forget, spares, vectors, METRICS[by], choose)
        retain = _joined(retain, spares, kept["twins"])
    recipe = at.recipe.continued(training)
    return fit(model, retain, recipe, seed=at.seed, task=at.task, checkpoint=at.checkpoint), kept


def vectors_of(data: str, retain: torch.Tensor, original: Network | None, shrinkage: float) -> Vectors:
    """Return what makes vectors, float64 (n, d), of images: those between which the distances of `data` are taken.

    retain: the images that remain (N, ...). Mahalanobis's distance is Euclid's between vectors that are multiplied by
    L^-1, where S = L L^T.
    """
    features = data.startswith("feature")
    if features and original is None:
        raise ValueError(
            f"heal: {data} takes the features of the model before anything was forgotten, and none is given"
        )

    def plain(images: torch.Tensor) -> torch.Tensor:
        found = penultimate(original, images) if features and original else pixels(images, torch.float64).flatten(1)
        return found.double()

    if METRICS[data] != "mahalanobis":
        return plain
    factor = _factor(finite(covariance(plain, retain), "the covariances"), shrinkage)
    return lambda images: torch.linalg.solve_triangular(factor, plain(images).T, upper=False).T


def covariance(vectors: Vectors, images: torch.Tensor) -> torch.Tensor:
    """The covariance (d, d) of the vectors of images (N, ...), divided by N - 1 (by 1 for a single image)."""
    sums: torch.Tensor | float = 0.0
    squares: torch.Tensor | float = 0.0
    for some in map(vectors, images.split(BATCH)):
        sums, squares = sums + some.sum(0), squares + some.T @ some
    mean = torch.as_tensor(sums) / len(images)
    return (squares - len(images) * torch.outer(mean, mean)) / max(len(images) - 1, 1)


def _factor(spread: torch.Tensor, shrinkage: float) -> torch.Tensor:
    """The lower triangular L with L L^T = `spread` + `shrinkage` times its mean variance on the diagonal."""
    shrunk = spread + shrinkage * spread.diagonal().mean() * torch.eye(len(spread)).to(spread)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    if failed:
        raise ValueError("heal: the covariance of the remaining data cannot be inverted; a larger shrinkage mends it")
    return factor


def twins(
    forget: Samples, spares: Samples, vectors: Vectors, metric: str, choose: Choose
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each of `forget`'s samples the place of its spare in `spares`, `int64` (n,), and its distance (n,), on
    their device.

    choose: from the distances (n, m) of a class's samples to its spares which spare each sample gets, none twice.
    """
    found = torch.zeros_like(forget.labels)
    far = torch.zeros_like(found, dtype=torch.float64)
    for label in forget.labels.unique():
        ours, theirs = ((some.labels == label).nonzero().flatten() for some in (forget, spares))
        each = distances(vectors(forget.images[ours]), vectors(spares.images[theirs]), metric)
        columns = choose(each)
        found[ours] = theirs[torch.from_numpy(columns)]
        far[ours] = torch.from_numpy(each[range(len(columns)), columns]).to(far)
    return found, far


def distances(ours: torch.Tensor, theirs: torch.Tensor, metric: str) -> np.ndarray:
    """The distances (n, m) of vectors (n, d) and (m, d), float64."""
    one, other = ours.cpu().numpy(), theirs.cpu().numpy()
    if metric != "cosine":
        found = cdist(one, other)
    else:
        with np.errstate(invalid="ignore"):  # a vector of zeros points nowhere
            found = cdist(one, other, "cosine")
        found[~one.any(1)] = found[:, ~other.any(1)] = 1.0
    return finite(torch.from_numpy(found), "the distances to the spares").numpy()


def in_order(distances: np.ndarray) -> np.ndarray:
    """The nearest column that is left for each row in turn, (n, m) to (n,)."""
    left, columns = distances.copy(), np.empty(len(distances), dtype=np.int64)
    for row, each in enumerate(left):
        columns[row] = each.argmin()
        left[:, columns[row]] = np.inf
    return columns


def assignment(distances: np.ndarray) -> np.ndarray:
    """The columns with the smallest sum of distances, one for each row, (n, m) to (n,)."""
    return linear_sum_assignment(distances)[1]


def drawn(distances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A column at random for each row, (n, m) to (n,), whatever the distances."""
    return generator.permutation(distances.shape[1])[: len(distances)]


def _spares(at: Step, split: str, labels: torch.Tensor) -> Samples:
    """Return the samples of `split`; `ValueError` where it has fewer of some class than `labels` have."""
    if split not in at.splits:
        raise ValueError(
            f"heal: the data set holds back no {split!r}; it holds back {', '.join(at.splits) or 'nothing'}"
        )
    spares = at.splits[split]
    count = int(torch.cat([labels, spares.labels]).max()) + 1
    wanted, there = (torch.bincount(some, minlength=count) for some in (labels, spares.labels))
    if short := (wanted > there).nonzero().flatten().tolist():
        asked, left = int(wanted[short[0]]), int(there[short[0]])
        raise ValueError(
            f"heal: {asked} samples of class {short[0]} are forgotten, and {split!r} has {left} of it; "
            "hold back a larger share or forget fewer"
        )
    return spares


def _joined(retain: Samples, spares: Samples, chosen: torch.Tensor) -> Samples:
    """Return `retain` and then the spares `chosen` (n,), in floats where what remains is."""
    images, labels = (part[chosen] for part in spares)
    images = pixels(images, retain.images.dtype) if retain.images.is_floating_point() else images
    return Samples(torch.cat([retain.images, images]), torch.cat([retain.labels, labels]))
