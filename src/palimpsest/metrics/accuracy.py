"""Accuracies before and after unlearning, in percent.

The papers' TA, UA and RA (methods.md 2.11). UA is accuracy on the forget set, lower is better; SalUn's UA is 100
minus this. What TA means in the class scenario is not said and differs between the UMA paper's data sets (decision
U-3): `test_accuracy_full` scores all test images, `test_accuracy_retained` those of classes that were kept. The
label-leakage paper's accuracy on D_f is `test_accuracy_forgotten`, on test images of the classes forgotten whole (its
numbers before forgetting are test accuracies); where none was, there is none.
"""

from __future__ import annotations

import torch

from palimpsest.metrics import Outputs


def accuracy(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of rows of (N, K) whose largest entry is at the label (N,); nan for none."""
    return (probabilities.argmax(1) == labels).double().mean().item() * 100 if len(labels) else float("nan")


def measure(outputs: Outputs) -> dict[str, float]:
    """The accuracies of a model."""
    kept = outputs.test_retained
    gone = (
        {}
        if bool(kept.all())
        else {"test_accuracy_forgotten": accuracy(outputs.test[~kept], outputs.test_labels[~kept])}
    )
    return gone | {
        "test_accuracy_full": accuracy(outputs.test, outputs.test_labels),
        "test_accuracy_retained": accuracy(outputs.test[kept], outputs.test_labels[kept]),
        "forget_accuracy": accuracy(outputs.forget, outputs.forget_labels),
        "retain_accuracy": accuracy(outputs.retain, outputs.retain_labels),
    }
