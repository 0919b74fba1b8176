"""Accuracies after unlearning, in percent, of the clean sets and of attacked ones.

They are the papers' TA, UA and RA (docs/methods.md 2.11). UA is the accuracy on the forget set, lower is better;
SalUn's UA is 100 minus this. What TA means in the class scenario is not said, and it differs between the UMA paper's
data sets (docs/methods.md#u-3): `test_accuracy_full` scores all test images, `test_accuracy_retained` those of classes
that were kept. The label-leakage paper's accuracy on D_f is `test_accuracy_forgotten`, on test images of the classes
forgotten whole; where no class was, there is no such number. Under attack images are scored with their label
(docs/methods.md#u-8): as `forget_accuracy`, or, where the attack was tried on images that no model was trained on,
as `unseen_accuracy`, `retained_accuracy` or `held_out_accuracy` (`attacks.on_images.aimed_at` says which these are).
`target_accuracy` is then the percentage of images that the model puts into the class the attack aimed at; for UMA that
is the class that the original model gave the clean image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Answers, Number, Outputs

ALWAYS = True
TASKS = ("classification",)
NEEDS = ("forget", "retain", "test")
METRICS = {
    "forget_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "forget"},
    "unseen_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "unseen"},
    "retained_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "retained"},
    "held_out_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "held_out"},
    "retain_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "retain"},
    "test_accuracy_full": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "test_accuracy_retained": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "test_accuracy_forgotten": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "test"},
    "target_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "attacked"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the accuracy of each set of samples."""
    for answers in outputs.sets:
        if answers.of == "test":
            yield from of_test(answers, outputs.test_retained)
        elif answers.of != "before":
            yield answers.number(f"{answers.of}_accuracy", percent(answers["predicted"] == answers.labels))
        if answers.attack != "none":
            yield answers.number("target_accuracy", percent(answers["reached"]))


def of_test(answers: Answers, retained: torch.Tensor) -> Iterator[Number]:
    """Yield the accuracies on test images; bool `retained` (N,) selects those of classes that were kept."""
    for name, chosen in (("full", torch.ones_like(retained)), ("retained", retained), ("forgotten", ~retained)):
        part = answers.only(chosen)
        yield part.number(f"test_accuracy_{name}", percent(part["predicted"] == part.labels))


def percent(right: torch.Tensor) -> float:
    """Return the percentage of bool entries (N,) that are true; nan for none."""
    return right.double().mean().item() * 100 if len(right) else float("nan")
