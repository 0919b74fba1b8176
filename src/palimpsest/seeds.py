"""Seeds that name what they are for: the same in every process, order and batch of jobs."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def stable_seed(*parts: Any) -> int:
    """A 63-bit seed from what names a run, never from a counter, so that resuming or batching changes no result."""
    digest = hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
