"""Hostile requests among honest ones: those of another kind, mixed at random with samples that others ask to forget.

The healing paper writes that hostile requests "will be blended with spontaneous, non-malicious unlearn requests", which
may strengthen an attack or thwart it, and runs none (its Section 3). The honest ones are drawn at random from the other
samples, the order in which all are served is random too, so a mini-batch of them is hostile in part.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import torch

from palimpsest.data import Images
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, Rule, check
from palimpsest.seeds import stable_seed


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    hostile: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    count: Annotated[int, "[1, train)"] = 250,
    keep_classes: bool = False,
) -> Request:
    """The samples of the kind `hostile`, and honest ones up to `count` in all, in an order that the seed decides.

    hostile: another kind, with its keywords in `settings`; the configuration names another entry here. count: 250 is
    ours. keep_classes: whether a class may not lose its last sample.
    Raises `RequestError` where no kind is named, where it replaces samples instead of removing them, and where `count`
    leaves no honest sample or there are not so many; and what the other kind raises.
    """
    if hostile is None:
        raise RequestError("mixed: it takes a kind of request as hostile, and none is named")
    asked = Rule(hostile, settings).choose(images, at)
    if asked.replacement is not None:
        raise RequestError(f"mixed: {hostile} replaces samples, and a request that removes others cannot do both")
    labels = images.train_labels
    if not len(asked.indices) < count < len(labels):
        raise RequestError(
            f"mixed: {len(asked.indices)} hostile samples and honest ones cannot make {count} of {len(labels)}"
        )

    def shuffled(size: int, of: str) -> torch.Tensor:
        return torch.randperm(size, generator=torch.Generator().manual_seed(stable_seed(at.seed, of)))

    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[asked.indices] = False
    others = rest.nonzero().flatten()
    honest = others[shuffled(len(others), "honest")[: count - len(asked.indices)]]
    every = torch.cat([asked.indices, honest])
    return check(images, Request(every[shuffled(count, "order")]), keep_classes)
