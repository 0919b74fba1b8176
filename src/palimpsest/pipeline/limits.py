"""What a job asks of a cluster: memory and minutes, and more of both when a job that its limit killed is tried again.

Snakemake calls these for a rule's `resources` when it needs the number. On one machine nothing is limited by them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

COPIES = 2  # of its inputs that a job may hold: as read, and as the tensors made from it
BYTES = 10**6  # in one of Snakemake's megabytes


def memory(mb: int) -> Callable[..., int]:
    """A rule's `mem_mb`: `mb` megabytes besides its inputs' copies, the attempt's number of times.

    An input that is not there yet (a dry run, a member of a group) counts nothing.
    """

    def mem_mb(wildcards: object, input: Iterable[str], attempt: int) -> int:
        there = sum(os.path.getsize(path) for path in input if os.path.isfile(path))
        return attempt * (mb + COPIES * there // BYTES)

    return mem_mb


def runtime(minutes: int) -> Callable[..., int]:
    """A rule's `runtime`: `minutes`, the attempt's number of times; a training goes on where it was killed."""

    def runtime(wildcards: object, attempt: int) -> int:
        return attempt * minutes

    return runtime
