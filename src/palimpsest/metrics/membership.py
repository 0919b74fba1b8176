"""The share of forget images that a support vector machine calls members of the training set.

The machine (`palimpsest.membership`) is fitted once, on clean images: members, the first len(test) retained training
images in data-set order, against non-members, the test images; then it is asked about the forget images, clean,
attacked and purified (SalUn's SVC_MIA, methods.md 2.11). The UMA paper's MIA is this share (original 0.98, retrained
0.00 for a class); SalUn prints one minus it.

In the class scenario the public code removes the forgotten class from the test images when it is one class, and by a
bug leaves several in. Both are offered: `member_rate` without them, `member_rate_full_test` with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.membership import Attacker, train
from palimpsest.metrics import Number, Outputs

NEEDS = ("forget", "retain", "test")
METRICS = {
    "member_rate": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
    "member_rate_full_test": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "forget"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Both rates of the forget images, wherever the model was asked about them."""
    kept = outputs.test_retained
    member = _attacker(outputs, kept)
    full = member if bool(kept.all()) else _attacker(outputs, torch.ones_like(kept))
    for answers in outputs.sets:
        if answers.of == "forget":
            yield answers.number("member_rate", member(answers.true))
            yield answers.number("member_rate_full_test", full(answers.true))


def _attacker(outputs: Outputs, non_members: torch.Tensor) -> Attacker:
    """Fitted on retain against those test images that bool `non_members` (N,) names."""
    unseen = outputs.clean("test").only(non_members).true
    return train(outputs.clean("retain").true[: len(unseen)], unseen)
