"""What attacks on images reached besides accuracy: their target class, their loss, and how far they moved a pixel.

`target_accuracy` is the percentage of images that the model puts into the class the attack aimed at; for UMA that is
the class that the original model gave the clean image. The loss and the change are the attack's own. They are the same
behind any defense, so they are given once, without one.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs
from palimpsest.metrics.accuracy import percent

ALWAYS = True
NEEDS = ("attacked",)
METRICS = {
    "target_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "attacked"},
    "largest_change_levels": {"unit": "grey levels", "kind": "set", "bounds": (0, 255), "of": "attacked"},
    "attack_loss": {"unit": "nats", "kind": "mean", "bounds": (0, None), "of": "attacked"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield these numbers for each attack, epsilon and defense; the loss only for images that the attack made."""
    for answers in outputs.attacked():
        assert answers.targets is not None and answers.change is not None
        yield answers.number("target_accuracy", percent(answers.predicted, answers.targets))
        if not answers.defense:
            yield answers.number("largest_change_levels", answers.change)
            if answers.loss is not None:
                yield answers.number("attack_loss", answers.loss.double().mean().item())
