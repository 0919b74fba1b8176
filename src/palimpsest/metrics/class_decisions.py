"""How well an attack names the forgotten classes, with what the label-leakage paper's success rate leaves out.

    ASR = correctly inferred classes / classes          (Section V-B, eq. 12; "random guessing baseline of 50%")

With one of ten classes forgotten an attacker who says "nothing was forgotten" has 90%, and with three 70%
(docs/methods.md#l-2). That is `trivial_asr`, the number to hold an ASR against. `balanced_accuracy` gives forgotten and
retained classes half the weight each, so an attacker who calls all classes forgotten, or none, has 50%. `forgotten_f1`
counts the forgotten classes alone. `exact_match` needs every class of a trial to be right. `shadow_servers` is on how
many of them the decision rests.

The printed rates of attacks on parameters most likely count single heads, as many of forgotten as of kept classes
(docs/methods.md#l-7). That is `asr_head_decisions`; `trivial_head_asr`, of who calls all heads alike, is 50 then.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs

ALWAYS = True
NEEDS = ("judged",)
TASKS = ("classification",)
METRICS = {
    "asr_class_decisions": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "trivial_asr": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "balanced_accuracy": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "forgotten_f1": {"unit": "fraction", "kind": "samples", "bounds": (0, 1), "of": "classes"},
    "exact_match": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "classes"},
    "shadow_servers": {"unit": "", "kind": "set", "bounds": (0, None), "of": "judged"},
    "asr_head_decisions": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "heads"},
    "trivial_head_asr": {"unit": "%", "kind": "samples", "bounds": (50, 100), "of": "heads"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield each metric of each attack's decisions, by decision rule; nan where it is undefined."""
    for attack, judgement in outputs.judged.items():
        for screening, decisions in judgement.decisions.items():
            for metric, value in scores(decisions, outputs.forgotten).items():
                yield Number(metric, value, len(decisions), attack, screening=screening)
        for screening, count in judgement.shadows.items():
            yield Number("shadow_servers", count, len(outputs.forgotten), attack, screening=screening)
        for screening, (called, truth) in judgement.heads.items():
            right = ((called == truth).double().mean() * 100).item()
            yield Number("asr_head_decisions", right, len(truth), attack, screening=screening)
            # As many heads are of forgotten as of kept classes, so whoever calls all alike is right in half of them.
            yield Number("trivial_head_asr", 50.0, len(truth), attack, screening=screening)


def scores(decisions: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return each metric of one trial, from bool (K,), True = forgotten.

    A metric is nan where it is undefined: `balanced_accuracy` where the trial forgot no class, or all; `forgotten_f1`
    where no class is forgotten and none is judged so. Raises `ValueError` for other shapes or types.
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
