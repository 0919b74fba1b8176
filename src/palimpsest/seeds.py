"""Seeds that name what they are for: the same in every process, order and batch of jobs."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def stable_seed(*parts: Any) -> int:
    """A 63-bit seed from what names a run, never from a counter, so that resuming or batching changes no result."""
    digest = hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numbers(block: str) -> list[int]:
    """The repetitions that a path's `seed{block}` names: "3" is one, "0-4" are five in one file and one job."""
    first, _, last = block.partition("-")
    return list(range(int(first), int(last or first) + 1))


def blocks(repetitions: int, size: int) -> list[str]:
    """Repetitions 0 to `repetitions` - 1 as blocks of up to `size`, as `numbers` reads them."""
    parts = [range(start, min(start + size, repetitions)) for start in range(0, repetitions, size)]
    return [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
