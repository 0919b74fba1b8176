"""What figures draw one by one: the largest probabilities of test images, and the numbers by which attacks on labels
judge.

A number of this family is the mean of what is drawn. Only the first repetition is drawn, and only the first test images
of each class. What attacks on labels show comes with their judgements (`palimpsest.measure`); the names are declared
here, or as METRICS in the attack's own file.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs

SHOWN = 20  # test images a class
NEEDS = ("test",)
TASKS = ("classification",)
METRICS = {
    "max_probability": {"unit": "", "kind": "mean", "bounds": (0, 1), "of": "test"},
    "dot_products": {"unit": "", "kind": "mean", "bounds": (None, None), "of": "judged"},
    "absolute_differences": {"unit": "", "kind": "mean", "bounds": (0, None), "of": "judged"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the largest probabilities of test images, for the first repetition."""
    if outputs.repetition == 0:
        test = outputs.clean("test")
        classes = test.labels.unique()
        chosen = torch.cat([(test.labels == label).nonzero().flatten()[:SHOWN] for label in classes])
        values = test["probabilities"][chosen].amax(1)
        yield Number.one_by_one("none", "max_probability", values, test.labels[chosen], outputs.forgotten)
