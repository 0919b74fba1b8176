"""Seeds made from the names of what they are for, so that they are the same in every process, order and block."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def stable_seed(*parts: Any) -> int:
    """Return a 63-bit seed made from the names of a run, never from a counter, so that resuming or batching changes
    nothing.
    """
    digest = hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numbers(block: str) -> list[int]:
    """Return the repetitions that a block names: "3" is one, "0-4" are five in one file and one job."""
    first, _, last = block.partition("-")
    return list(range(int(first), int(last or first) + 1))


def blocks(repetitions: int, size: int) -> list[str]:
    """Return repetitions 0 to `repetitions` - 1 as blocks of up to `size`, in the form that `numbers` reads."""
    parts = [range(start, min(start + size, repetitions)) for start in range(0, repetitions, size)]
    return [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
