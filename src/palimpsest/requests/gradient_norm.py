"""The samples at which a model's loss is steepest: those with the largest gradient over its parameters, largest first.

The healing paper names an adversary who knows the parameters (its Section 3) and runs none. We take the largest

    |d l(z; theta)|,   the Euclidean norm of the gradient of the cross entropy of one sample,

in evaluation mode: the samples that pull most at the weights, on which every unlearner that follows gradients takes its
longest step. Paul et al. (NeurIPS 2021) call this norm GraNd, early in training, and rank samples by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch

from palimpsest.curvature import last_layer_gradients, per_sample_gradients
from palimpsest.data import Images, Samples
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, _ranked

NEEDS = ("model",)
TASKS = ("classification",)


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, train)"] = 25,
    layers: Literal["all", "last"] = "all",
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    keep_classes: bool = False,
    memory: Annotated[int, "[1, inf)"] = 2**29,
) -> Request:
    """The `count` training samples with the largest gradient under `at.model`, largest first, ties in upstream order.

    layers: whether the gradient is over all parameters or over those of the last dense layer, of an ensemble over those
    of each member's. classes: choose among the samples of these alone. keep_classes: whether a class may not lose its
    last sample. memory: how many bytes a block of gradients over all parameters may take (`per_sample_gradients`).
    Raises `RequestError` where there are too few, `ModelError` where a network has no dense layer, and `Diverged` where
    a gradient is not finite.
    """
    assert at.model is not None  # NEEDS
    found = _ranked.among(images, classes, count)
    some = Samples(*(part[found.to(part.device)].to(at.model.mean.device) for part in images.splits["train"]))
    if layers == "last":
        batches = last_layer_gradients(at.model, some)
        squares = ([a.square().sum(1) * h.square().sum(1) for a, h in pairs] for pairs in batches)
        norms = [torch.stack(parts).sum(0).sqrt() for parts in squares]
    else:
        blocks = per_sample_gradients(at.model, some, memory=memory)
        norms = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks]
    return _ranked.first(images, found, torch.cat(norms), count, keep_classes)
