"""A support vector machine that calls images members of the training set, by how sure the model is of their label.

SalUn's SVC_MIA (SVC_MIA.py:53-82, methods.md 2.11): one feature, the softmax probability of the true class;
SVC(C=3, gamma="auto", kernel="rbf").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.svm import SVC

Attacker = Callable[[torch.Tensor], float]


def train(members: torch.Tensor, non_members: torch.Tensor) -> Attacker:
    """Fit the attacker on the labels' probabilities (M,) of members and (N,) of non-members.

    It maps the labels' probabilities (L,) of other images to the share that it calls members, 0 to 1; nan for none.
    """
    features = np.concatenate([_feature(members), _feature(non_members)])
    target = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(features, target)

    def rate(probabilities: torch.Tensor) -> float:
        return float(machine.predict(_feature(probabilities)).mean()) if len(probabilities) else float("nan")

    return rate


def _feature(probabilities: torch.Tensor) -> np.ndarray:
    return probabilities[:, None].double().numpy()
