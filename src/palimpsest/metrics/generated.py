"""How the images that a model answers with look to an observer, as a set: Fréchet distance, Inception score and kernel
distance.

The observer is a classifier; Inception makes of them the FID (Heusel et al., NeurIPS 2017), the IS (Salimans et al.,
NeurIPS 2016) and the KID (Bińkowski et al., ICLR 2018) of papers, any other gives numbers of the same form that are to
be held against each other only. With its features mu, S of the model's answers to attacked images, and nu, T of the
images that the attack started from, K classes and p its softmax:

    fid = |mu - nu|^2 + tr(S + T - 2 (S T)^(1/2)),   is = exp(mean_x KL(p(. | x) || mean_x p(. | x))),
    kid = the unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3; it may be negative

They are torch-fidelity's own functions, on features in float64, with its seed 2020. Its IS is the mean over up to 10
splits of the shuffled set; a split has 100 images or more here, so that fewer than 1,000 images have fewer splits and
fewer than 200 one. Its KID is the mean over 100 draws of 1,000 images; of fewer images it is that of all, as any draw
of all of them is the same. The Fréchet distance is too large by an amount that falls as 1/N and grows with D, so that
numbers of different N cannot be compared; and with N <= D a covariance has no full rank.

`generated_fid_spread` estimates the standard deviation that the Fréchet distance has over samples of N images: the
deviation over 10 draws of half the images, without replacement (Politis and Romano, Annals of Statistics 1994). An
image and the model's answer to it are drawn together. Draws of b from the same N images vary as 1/b - 1/N, samples of N
as 1/N, hence the factor (b / (N - b))^(1/2), which is 1 for a half (Shao and Wu, Annals of Statistics 1989); the plain
(b / N)^(1/2) is for b far below N. A bootstrap would be biased: it draws images twice, and what a set with fewer
different images adds to the distance counts as if the sample had it. In our trial with 200 images and 64 features this
was 16% of the value itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs
from palimpsest.metrics.accuracy import percent
from palimpsest.seeds import stable_seed

NEEDS = ("attacked", "observed")
TASKS = ("reconstruction",)
METRICS = {
    "generated_fid": {"unit": "", "kind": "set", "bounds": (0, None), "of": "attacked", "least": 2048},
    "generated_fid_spread": {"unit": "", "kind": "set", "bounds": (0, None), "of": "attacked"},
    "generated_is": {"unit": "", "kind": "set", "bounds": (1, None), "of": "attacked"},
    "generated_kid": {"unit": "", "kind": "set", "bounds": (None, None), "of": "attacked"},
    "observer_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
}
SPLITS, SPLIT_SIZE = 10, 100  # of the Inception score: at most so many splits, of at least so many images
SUBSET_SIZE = 1000  # of the kernel distance
DRAWS = 10
SEED = 2020


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the four numbers of every attacked set that an observer saw, nan of one that is too small; and of how many
    test images the observer knows the class, in percent.
    """
    test = outputs.clean("test") if "test" in outputs.there else None
    if test and "recognised" in test.kept:
        yield test.number("observer_accuracy", percent(test["recognised"]))
    for answers in outputs.attacked():
        if answers.seen and "features" in answers.kept:  # an observer looks past no defense
            made, images = answers["features"], answers.seen["features"]
            yield answers.number("generated_fid", frechet(made, images))
            yield answers.number("generated_fid_spread", spread(made, images))
            yield answers.number("generated_is", score(answers["logits"]))
            yield answers.number("generated_kid", kernel(made, images))


def frechet(made: torch.Tensor, images: torch.Tensor) -> float:
    """The Fréchet distance of features (N, D), (M, D), D at least 2; nan of fewer than 2. What rounding leaves below 0
    is 0.
    """
    from torch_fidelity import metric_fid

    if min(len(made), len(images)) < 2:
        return float("nan")
    one, other = (metric_fid.fid_features_to_statistics(features.double()) for features in (made, images))
    found = metric_fid.fid_statistics_to_metric(one, other, verbose=False)
    return max(float(found[metric_fid.KEY_METRIC_FID]), 0.0)


def spread(made: torch.Tensor, images: torch.Tensor) -> float:
    """The standard deviation of the Fréchet distance of N pairs of features, (N, D) each; nan of fewer than 4."""
    count = len(made)
    half = count // 2
    if half < 2:
        return float("nan")
    generator = torch.Generator().manual_seed(stable_seed("generated_fid_spread", SEED))
    drawn = (torch.randperm(count, generator=generator)[:half] for _ in range(DRAWS))
    values = torch.tensor([frechet(made[some], images[some]) for some in drawn], dtype=torch.float64)
    return float(values.std()) * (half / (count - half)) ** 0.5


def score(logits: torch.Tensor) -> float:
    """The Inception score of logits (N, K), from 1 to K; nan of fewer than 2."""
    from torch_fidelity import metric_isc

    if len(logits) < 2:
        return float("nan")
    splits = min(SPLITS, max(len(logits) // SPLIT_SIZE, 1))
    found = metric_isc.isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=SEED)
    return float(found[metric_isc.KEY_METRIC_ISC_MEAN])


def kernel(made: torch.Tensor, images: torch.Tensor) -> float:
    """The squared kernel distance of features (N, D), (M, D); nan of fewer than 2."""
    from torch_fidelity import metric_kid

    size = min(len(made), len(images), SUBSET_SIZE)
    if size < 2:
        return float("nan")
    found = metric_kid.kid_features_to_metric(
        made.double(),
        images.double(),
        kid_subset_size=size,
        kid_subsets=1 if size == len(made) == len(images) else 100,
        rng_seed=SEED,
        verbose=False,
    )
    return float(found[metric_kid.KEY_METRIC_KID_MEAN])
