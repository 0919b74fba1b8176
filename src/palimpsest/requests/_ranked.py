"""The samples that a score ranks first: what every kind has in common that ranks the training set."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palimpsest.data import Images
from palimpsest.models import Diverged
from palimpsest.requests import Request, RequestError, check


def among(images: Images, classes: Sequence[int] | None, count: int) -> torch.Tensor:
    """The training samples of these classes, by default of all, `int64` (n,), ascending, on the CPU.

    Raises `RequestError` where `count` of them cannot be forgotten.
    """
    labels = images.train_labels.cpu()
    found = torch.arange(len(labels))
    if classes is not None:
        found = found[torch.isin(labels, torch.tensor(classes, dtype=torch.int64))]
    if not 0 < count <= len(found) or count == len(labels):
        raise RequestError(f"cannot forget {count} of {len(found)} training samples")
    return found


def first(images: Images, found: torch.Tensor, scores: torch.Tensor, count: int, keep_classes: bool) -> Request:
    """The `count` samples of `found` (n,) with the largest `scores` (n,), largest first, ties in upstream order.

    Raises `Diverged` where a score is not finite, and `RequestError` where a class would be emptied that must be kept.
    """
    if not scores.isfinite().all():
        raise Diverged("what the model says of the samples that it shall rank is not finite")
    order = scores.cpu().sort(descending=True, stable=True).indices
    return check(images, Request(found[order[:count]]), keep_classes)
