"""How far a second-order step moved the loss's gradient, and how loose Theorem 3.1 of the malicious paper is there.

`unlearners.second_order` says both where it is asked to (`bounded`; see `unlearners/_gradient_change.py`): the length
of the change, and the bound with the least constants that the step itself allows. A theorem whose bound lies orders of
magnitude above what it bounds predicts nothing about a step of that size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

NEEDS = ("told",)
METRICS = {
    "gradient_change": {"unit": "", "kind": "set", "bounds": (0, None), "of": "training"},
    "gradient_change_excess": {"unit": "orders of magnitude", "kind": "set", "bounds": (None, None), "of": "training"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the length, and the decimal logarithm of the bound as a multiple of it."""
    told = outputs.told
    if "gradient_change" not in told:
        return
    change, bound = told["gradient_change"], told["gradient_change_bound"]
    yield Number("gradient_change", change, 1)
    yield Number("gradient_change_excess", math.log10(bound / change) if change and bound else math.nan, 1)
