"""What attacks on images did besides what they reached: their loss, and how far they moved a pixel.

Both are the attack's own, so they are the same behind any defense, and are given without. The loss is the distance that
the attack was told to make small, in the distance's own unit: nats of a divergence, squares of a mean squared error.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

ALWAYS = True
NEEDS = ("attacked",)
METRICS = {
    "largest_change_levels": {"unit": "grey levels", "kind": "set", "bounds": (0, 255), "of": "attacked"},
    "attack_loss": {"unit": "loss", "kind": "mean", "bounds": (0, None), "of": "attacked"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """For each attack and epsilon; the loss of made images only."""
    for answers in outputs.attacked():
        if not answers.defense:
            assert answers.change is not None
            yield answers.number("largest_change_levels", answers.change)
            if answers.loss is not None:
                yield answers.number("attack_loss", answers.loss.double().mean().item())
