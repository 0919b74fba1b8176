"""Test accuracies of the model before unlearning, in percent: the label-leakage paper's numbers before forgetting.

The unlearned model's request decides which test images count as retained or forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs, accuracy

NEEDS = ("before",)
TASKS = ("classification",)
METRICS = {
    "test_accuracy_full_before": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "test_accuracy_retained_before": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "test_accuracy_forgotten_before": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the accuracies that `accuracy` gives for test images, from the outputs of the model before unlearning."""
    for number in accuracy.of_test(outputs.clean("before"), outputs.test_retained):
        yield number._replace(metric=f"{number.metric}_before")
