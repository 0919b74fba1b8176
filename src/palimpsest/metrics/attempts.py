"""Whether a crafted request brought the model to say of a test image what it was aimed at (docs/methods.md 2.9).

    ASR = attempts that succeed / attempts          (malicious-requests paper, Section 5.1)

A repetition is one attempt, aimed at one image: it succeeds where the unlearned model takes that image for the class
that was wanted, or, where any other class will do, for another than its own. `attempt_success` is 100 or 0 then, so
that the mean over repetitions is the paper's rate, and the standard error of that mean the one that it prints
(docs/methods.md#m-1).

A model that has collapsed takes many images for that class. So `attempt_targeted` counts a success only where the clean
test accuracy of the image's own class, the aimed images left out, fell by less than `COLLAPSED` points against the
model before unlearning (our decision). `aimed_class_accuracy` is that accuracy and `aimed_class_drop` by how much it
fell.

`attempt_objective` is the lowest value of what the request's maker lowered, with the whole run of it for a figure
(`trace`); in its own unit, which differs from kind to kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs
from palimpsest.metrics.accuracy import percent
from palimpsest.requests import ANY

NEEDS = ("aim", "before")
TASKS = ("classification",)
METRICS = {
    "attempt_success": {"unit": "%", "kind": "attempts", "bounds": (0, 100), "of": "aimed"},
    "attempt_targeted": {"unit": "%", "kind": "attempts", "bounds": (0, 100), "of": "aimed"},
    "aimed_class_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "aimed_class_drop": {"unit": "points", "kind": "set", "bounds": (-100, 100), "of": "test"},
    "attempt_objective": {"unit": "loss", "kind": "set", "bounds": (None, None), "of": "aimed"},
}
COLLAPSED = 10  # points of accuracy, from which on a success is no targeted one


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the metrics of the images at which the last crafted request is aimed.

    Of several images, success is the share of them; the accuracy is that of all their classes together. Where no other
    test image is of the class there is no accuracy, and no attempt is called targeted.
    """
    aim, test, before = outputs.aim, outputs.clean("test"), outputs.clean("before")
    assert aim is not None  # NEEDS
    own, said = test.labels[aim.indices], test["predicted"][aim.indices]
    reached = torch.where(aim.labels == ANY, said != own, said == aim.labels)
    others = torch.ones(len(test.labels), dtype=torch.bool)
    others[aim.indices] = False

    def accuracies(classes: torch.Tensor) -> tuple[float, float, int]:
        """Return the accuracy on other test images of these classes, that before unlearning, and of how many images."""
        of = others & torch.isin(test.labels, classes)
        now, then = (percent(answers["predicted"][of] == test.labels[of]) for answers in (test, before))
        return now, then, int(of.sum())

    fell = [then - now for now, then, _ in (accuracies(label[None]) for label in own)]
    stands = torch.tensor([drop < COLLAPSED for drop in fell], dtype=torch.bool)  # never where there is no accuracy
    now, then, count = accuracies(own)
    yield Number("attempt_success", percent(reached), len(own))
    yield Number("attempt_targeted", percent(reached & stands), len(own))
    yield Number("aimed_class_accuracy", now, count)
    yield Number("aimed_class_drop", then - now, count)
    if outputs.trace is not None:
        run = {"trace": [float(f"{value:.5g}") for value in outputs.trace.tolist()]}
        yield Number("attempt_objective", float(outputs.trace.min()), len(own), shown=run)
