"""What attacks on images did, besides what they reached: their loss, and how far they moved a pixel.

Both are the attack's own. They are the same behind any defense, so they are given once, without one. The loss is the
distance that the attack lowered, in its own unit: nats for a divergence, squares for a mean squared error.
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
    """Yield these numbers for each attack and epsilon; the loss only for images that the attack made."""
    for answers in outputs.attacked():
        if not answers.defense:
            assert answers.change is not None
            yield answers.number("largest_change_levels", answers.change)
            if answers.loss is not None:
                yield answers.number("attack_loss", answers.loss.double().mean().item())
