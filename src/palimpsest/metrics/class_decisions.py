"""How well an attack names the forgotten classes, with what the label-leakage paper's success rate leaves out.

    ASR = correctly inferred classes / classes          (Section V-B, eq. 12; "random guessing baseline of 50%")

Of ten classes one is forgotten, so whoever says "nothing was forgotten" has 90%, and 70% where three are
(docs/methods.md#l-2): that is `trivial_asr`, the number to hold an ASR against. `balanced_accuracy` gives forgotten and
retained classes half the weight each, so both trivial attackers have 50%; `forgotten_f1` counts the forgotten class
alone; `exact_match` wants every class of a trial right.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs

ALWAYS = True
NEEDS = ("judged",)
METRICS = {
    "asr_class_decisions": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "trivial_asr": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "balanced_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "forgotten_f1": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "classes"},
    "exact_match": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Each metric of each attack's decisions, by screening; nan where it is undefined."""
    for attack, judgement in outputs.judged.items():
        for screening, decisions in judgement.decisions.items():
            for metric, value in scores(decisions, outputs.forgotten).items():
                yield Number(metric, value, len(decisions), attack, screening=screening)


def scores(decisions: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Each metric of one trial, for bool (K,), True = forgotten.

    nan where a metric is undefined: `balanced_accuracy` where the trial forgot no class, or all; `forgotten_f1` where
    none is forgotten and none is judged so. Raises `ValueError` where the shapes or types are others.
    """
    if {decisions.dtype, truth.dtype} != {torch.bool} or decisions.ndim != 1:
        raise ValueError("class_decisions: decisions and truth are bool (classes,)")
    if decisions.shape != truth.shape:
        raise ValueError(f"class_decisions: {tuple(decisions.shape)} decisions on {tuple(truth.shape)} classes")
    hits = (decisions & truth).sum().double()
    false_alarms = (decisions & ~truth).sum().double()
    gone, kept = truth.sum().double(), (~truth).sum().double()
    right = (decisions == truth).double()
    found = {
        "asr_class_decisions": right.mean() * 100,
        "trivial_asr": (~truth).double().mean() * 100,
        "balanced_accuracy": (hits / gone + 1 - false_alarms / kept) * 50,
        "forgotten_f1": 2 * hits / (hits + false_alarms + gone),
        "exact_match": right.prod() * 100,
    }
    return {metric: float(value) for metric, value in found.items()}
