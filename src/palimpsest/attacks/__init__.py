"""Attacks on unlearned models, in a folder for each stage at which an attacker acts.

    on_images    searches for inputs near given images that bring the forgotten answers back
    on_labels    finds out, from an unlearned server's answers or weights, which classes it was made to forget

Each file of a stage is one method; a file whose name begins with `_` is a helper of several. The stage's `__init__.py`
describes what a method is given. An attack that consists of the requests that an attacker submits is a request:
`palimpsest.requests` chooses those.
"""

from __future__ import annotations

import torch

from palimpsest.models import Diverged


def finite(outputs: torch.Tensor, whose: str) -> torch.Tensor:
    """Return `outputs` unchanged, of any shape, if all of them are finite; anything else cannot be scored.

    whose: what they are, in the plural, for the sentence of `Diverged`, which is raised where one is not finite.
    """
    if not bool(outputs.isfinite().all()):
        raise Diverged(f"{whose} are not finite, so no number that is computed from them would mean anything")
    return outputs
