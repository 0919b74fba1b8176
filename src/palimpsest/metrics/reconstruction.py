"""How far reconstructed images are from what they should be: mean squared errors, pixels from 0 to 1.

An image's error is the mean over its numbers, a set's the mean over its images. `forget_mse`, `retain_mse` and
`test_mse` are against the images themselves; of attacked images `forget_mse` (or `unseen_mse`, where the attack was
tried on test images) is against the image that the attack started from, and `attacked_mse` against what the attack
aimed at, for UMA the original model's output.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palimpsest.metrics import Number, Outputs

ALWAYS = True
NEEDS = ("forget", "retain", "test")
TASKS = ("reconstruction",)
METRICS = {
    "forget_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "forget"},
    "unseen_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "unseen"},
    "retain_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "retain"},
    "test_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "test"},
    "attacked_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "attacked"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """The errors of each set that was asked about; nan of an empty one."""
    for answers in outputs.sets:
        if answers.of != "before":
            yield answers.number(f"{answers.of}_mse", mean(answers["error"]))
        if answers.attack != "none":
            yield answers.number("attacked_mse", mean(answers["to_target"]))


def mean(errors: torch.Tensor) -> float:
    """The mean of errors (N,); nan of none."""
    return errors.double().mean().item()
