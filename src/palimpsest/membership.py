"""A membership attack: a support vector machine that says of an image whether it was in the training set.

This is SalUn's SVC_MIA (SVC_MIA.py:53-82; docs/methods.md 2.11). Its one feature is the softmax probability of the true
class. SVC(C=3, gamma="auto", kernel="rbf") is trained on members, the first len(test) retained training images in
data-set order, against non-members, the test images. The result is the share of forget images that it calls training
images, the member rate. The UMA paper's MIA is this share (original 0.98, retrained 0.00 for a class); SalUn prints one
minus it.

In the class scenario the public code removes the forgotten class from the test images when it is one class, and by a
bug leaves several in. We have both: `member_rate` without them, `member_rate_full_test` with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from sklearn.svm import SVC

Attacker = Callable[[torch.Tensor, torch.Tensor], float]


class Known(Protocol):
    """What the attack is fitted on: softmax probabilities (N, K) and labels (N,), on the CPU.

    Retain is in data-set order. test_retained: bool (N,), which test images belong to a class that retain still has.
    """

    @property
    def retain(self) -> torch.Tensor: ...
    @property
    def retain_labels(self) -> torch.Tensor: ...
    @property
    def test(self) -> torch.Tensor: ...
    @property
    def test_labels(self) -> torch.Tensor: ...
    @property
    def test_retained(self) -> torch.Tensor: ...


def confidence(probabilities: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return the probability of the true class: (N, K) and (N,) to (N, 1), float64."""
    return probabilities.gather(1, labels[:, None]).double().numpy()


def train(outputs: Known, *, full_test: bool = False) -> Attacker:
    """Fit the attack on retain against test; it maps probabilities (N, K) and labels (N,) to the member rate, 0 to 1.

    full_test: whether test images of classes that were forgotten whole count as non-members.
    """
    kept = torch.ones_like(outputs.test_retained) if full_test else outputs.test_retained
    non_members = confidence(outputs.test[kept], outputs.test_labels[kept])
    members = confidence(outputs.retain[: len(non_members)], outputs.retain_labels[: len(non_members)])
    features = np.concatenate([members, non_members])
    target = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(features, target)

    def rate(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
        return float(machine.predict(confidence(probabilities, labels)).mean())

    return rate


def attackers(outputs: Known) -> dict[str, Attacker]:
    """Return both attacks by the name of their metric; where they are the same, one fit serves both."""
    member = train(outputs)
    full = member if bool(outputs.test_retained.all()) else train(outputs, full_test=True)
    return {"member_rate": member, "member_rate_full_test": full}
