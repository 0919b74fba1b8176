"""How well an attack names the forgotten classes, with what the label-leakage paper's success rate leaves out.

    ASR = correctly inferred classes / classes          (S001:180-181, eq. 12; "random guessing baseline of 50%")

Of ten classes one is forgotten, so whoever says "nothing was forgotten" has 90%, and 70% where three are (L-2): that is
`trivial_asr`, the number to hold an ASR against. `balanced_accuracy` gives forgotten and retained classes half the
weight each, so both trivial attackers have 50%; `forgotten_f1` counts the forgotten class alone; `exact_match` wants
every class of a trial right.
"""

from __future__ import annotations

import torch


def per_trial(decisions: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each metric of each trial, float64 (T,), for bool (T, K), True = forgotten.

    `forgotten_f1` lies in 0 to 1, the others are percentages. nan where a metric is undefined: `balanced_accuracy`
    where a trial forgot no class, or all; `forgotten_f1` where none is forgotten and none is judged so.
    Raises `ValueError` where the shapes or types are others.
    """
    if {decisions.dtype, truth.dtype} != {torch.bool} or decisions.ndim != 2:
        raise ValueError("class_decisions: decisions and truth are bool (trials, classes)")
    if decisions.shape != truth.shape:
        raise ValueError(f"class_decisions: {tuple(decisions.shape)} decisions on {tuple(truth.shape)} classes")
    hits = (decisions & truth).sum(1).double()
    false_alarms = (decisions & ~truth).sum(1).double()
    gone, kept = truth.sum(1).double(), (~truth).sum(1).double()
    right = (decisions == truth).double()
    return {
        "asr_class_decisions": right.mean(1) * 100,
        "trivial_asr": (~truth).double().mean(1) * 100,
        "balanced_accuracy": (hits / gone + 1 - false_alarms / kept) * 50,
        "forgotten_f1": 2 * hits / (hits + false_alarms + gone),
        "exact_match": right.prod(1) * 100,
    }


def measure(decisions: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """The means over the trials for which a metric is defined; nan where it is for none. As `per_trial`."""
    return {name: float(values.nanmean()) for name, values in per_trial(decisions, truth).items()}
