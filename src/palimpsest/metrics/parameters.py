"""How many weights the network has."""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

ALWAYS = True
NEEDS = ("forget",)
METRICS = {"parameters": {"unit": "parameters", "kind": "set", "bounds": (0, None), "of": "network"}}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield one number, which is not about any samples."""
    yield outputs.clean("forget").number("parameters", outputs.parameters)
