"""The memory and minutes that a job requests of a cluster, and more of both after its limit killed it.

Snakemake calls these functions for a rule's `resources` when it needs the number. On a single machine they limit
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

COPIES = 2  # a job may hold its inputs twice: as read, and as the tensors made from them
BYTES = 10**6  # in one of Snakemake's megabytes


def memory(mb: int) -> Callable[..., int]:
    """Return a rule's `mem_mb`: `mb` megabytes and room for copies of the inputs there are yet, times the attempt."""

    def mem_mb(wildcards: object, input: Iterable[str], attempt: int) -> int:
        there = sum(os.path.getsize(path) for path in input if os.path.isfile(path))
        return attempt * (mb + COPIES * there // BYTES)

    return mem_mb


def runtime(minutes: int) -> Callable[..., int]:
    """Return a rule's `runtime`: `minutes` times the number of the attempt; a training goes on where it was killed."""

    def runtime(wildcards: object, attempt: int) -> int:
        return attempt * minutes

    return runtime
