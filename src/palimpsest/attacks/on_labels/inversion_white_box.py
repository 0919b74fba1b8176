"""White-box inversion of the label-leakage paper: for each class, an input that the network is as sure of as possible.

    x_0 ~ N(0, I),   x <- x - eta * grad_x [ CE(f(x), k) + lambda_1 ||x||^2 + lambda_2 TV(x) ]

(Section IV-C2, eq. 18-21), from R starts for every class k. The end with the smallest objective is kept, and the
network's answer to it is the class's inverted prediction vector. A class that was forgotten should have no input of
which the network is sure; `_screening` judges that from the vectors.

R, eta, both lambdas, the number of steps and the forms of both penalties are not in the paper's text. We decided
(docs/methods.md 2.8): 5 starts, 200 steps, lambda_1 = lambda_2 = 1e-4, and Adam at 0.1 instead of the plain gradient
descent that is written there (`optimizer="sgd"` is that). ||x||^2 is the sum of squares, TV the sum of absolute
differences between neighbours along rows and along columns. The network is in evaluation mode.

The paper's networks get normalised images, so its x ~ N(0, I) and both penalties live in that space; ours take pixels
and normalise inside. So `space="normalised"` searches z, and the network sees the pixels mean + std * z;
`space="pixels"` searches the pixels themselves. Nothing in eq. 18-20 keeps the image within [0, 1], while the paper
says in words that the black-box attack is projected. So by default there is no projection here; `clamp=True` projects
after every step.

All classes and starts are one batch. The sum over its images is differentiated, and Adam treats each pixel alone, so
each image moves as if it were the only one. Its start depends on the seed, the class and the number of the start alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from torch.nn import functional as F

from palimpsest import processor
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_labels import Found, Judgement, Judging, OnLabels, _screening
from palimpsest.models import Diverged, Network, finite
from palimpsest.ranges import checked
from palimpsest.seeds import stable_seed

TASKS = ("classification",)


class Inverted(NamedTuple):
    """What the attack made, one row for each class that was aimed at.

    images: (T, C, H, W) as the network takes them, in pixels; outside [0, 1] too, unless they were clamped.
    probabilities: float32 (T, K), the prediction vectors. losses: (T, R), where each start ended; the image and the
    vector are those of the smallest.
    """

    images: torch.Tensor
    probabilities: torch.Tensor
    losses: torch.Tensor


@checked
def attack(
    at: OnLabels[Network],
    *,
    targets: Sequence[Annotated[int, "[0, inf)"]] | None = None,
    restarts: Annotated[int, "[1, inf)"] = 5,
    steps: Annotated[int, "[0, inf)"] = 200,
    optimizer: Literal["adam", "sgd"] = "adam",
    lr: Annotated[float, "(0, inf)"] = 0.1,
    l2_weight: Annotated[float, "[0, inf)"] = 1e-4,
    tv_weight: Annotated[float, "[0, inf)"] = 1e-4,
    space: Literal["normalised", "pixels"] = "normalised",
    clamp: bool = False,
    batch_size: Annotated[int, "[1, inf)"] = 512,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Inverted:
    """Invert the server, which maps images (N, *shape) to logits (N, classes).

    targets: the classes to invert, all by default. restarts [R]: R, the starts of a class. steps [R]: of each start.
    optimizer, lr [R]: `adam`, or `sgd` [P] for plain gradient descent. l2_weight, tv_weight [R]: lambda_1, lambda_2.
    space: in which x starts, moves and is penalised: `normalised` [P] by the network's own `mean` and `std`, or
    `pixels`. clamp [R]: project to pixels in [0, 1] after every step; the start is projected too. batch_size: images
    searched at once. precision: of the network while searching; the image stays in the network's type, and the losses
    and vectors that come back are the network's own, unrounded and unfolded.
    Raises `ValueError` for a class that is not there, and `Diverged` where the server's outputs are not finite, or
    those and the objective at the end of no start of a class.
    """
    model, shape, classes, seed = at.server, at.shape, at.classes, at.seed
    aims = list(range(classes)) if targets is None else list(targets)
    if any(aim >= classes for aim in aims):
        raise ValueError(f"inversion_white_box: targets are classes from 0 to {classes - 1}, not {aims}")
    model.eval()
    device, kind = model.mean.device, model.mean.dtype
    mean, std = (model.mean, model.std) if space == "normalised" else (torch.zeros_like(model.mean), 1.0)
    low, high = (0 - mean) / std, (1 - mean) / std
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(device, kind)
    with torch.no_grad():
        finite(model(probe), "inversion_white_box: the server's outputs")
    searched = frozen(model, probe)
    autocast = processor.autocast(device, precision)
    starts = torch.stack([_start(shape, seed, aim, number) for aim in aims for number in range(restarts)])
    wanted = torch.tensor(aims, device=device).repeat_interleave(restarts)
    ends, losses, vectors = [], [], []
    for part, aim in zip(starts.split(batch_size), wanted.split(batch_size), strict=True):
        x = part.to(device, kind).contiguous(memory_format=torch.channels_last)
        if clamp:
            x = x.clamp(low, high)
        x.requires_grad_(True)
        step: torch.optim.Optimizer
        step = torch.optim.Adam([x], lr=lr) if optimizer == "adam" else torch.optim.SGD([x], lr=lr)
        for _ in range(steps):
            with autocast:
                logits = searched(mean + std * x)
            total = objective(logits.to(kind), x, aim, l2_weight=l2_weight, tv_weight=tv_weight).sum()
            (x.grad,) = torch.autograd.grad(total, x)
            step.step()
            if clamp:
                x.data.clamp_(low, high)
        with torch.no_grad():
            pixels = mean + std * x
            logits = model(pixels)
            reached = objective(logits, x, aim, l2_weight=l2_weight, tv_weight=tv_weight)
        losses.append(reached.where(logits.isfinite().all(1), torch.inf))
        ends.append(pixels)
        vectors.append(logits.softmax(1).float())
    reached = torch.cat(losses).view(len(aims), restarts)
    ended = reached.isfinite()
    if not ended.any(1).all():
        lost = [aim for aim, some in zip(aims, ended.any(1).tolist(), strict=True) if not some]
        raise Diverged(f"white-box inversion: every start of classes {lost} left the numbers; a smaller lr may help")
    best = reached.where(ended, torch.inf).argmin(1) + restarts * torch.arange(len(aims), device=device)
    return Inverted(torch.cat(ends)[best].contiguous(), torch.cat(vectors)[best], reached)


def objective(
    logits: torch.Tensor, x: torch.Tensor, targets: torch.Tensor, *, l2_weight: float, tv_weight: float
) -> torch.Tensor:
    """Eq. 20 for each image (N,): cross entropy of logits (N, K) to targets (N,) and penalties of x (N, C, H, W)."""
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().sum((1, 2, 3))
    columns = (x[..., 1:] - x[..., :-1]).abs().sum((1, 2, 3))
    loss = F.cross_entropy(logits, targets, reduction="none")
    return loss + l2_weight * x.square().sum((1, 2, 3)) + tv_weight * (rows + columns)


def _start(shape: Sequence[int], seed: int, aim: int, number: int) -> torch.Tensor:
    """x_0 of a class's start with this number: drawn on the CPU, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(stable_seed("inversion_white_box", seed, aim, number))
    return torch.randn(tuple(shape), generator=generator)


@checked
def judge(
    found: Found,
    at: Judging,
    *,
    coefficients: Sequence[Annotated[float, "[0, inf)"]] = (1.0,),
    score: Literal["max", "target"] = "max",
) -> Judgement:
    """Which classes the server forgot, from the prediction vectors; coefficients, score: see `_screening.judge`."""
    return _screening.judge(found["probabilities"], seed=at.seed, coefficients=coefficients, score=score)
