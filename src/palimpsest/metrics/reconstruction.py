"""How far reconstructed images are from what they should be: mean squared errors, pixels from 0 to 1, and PSNR.

An image's error is the mean over its numbers, a set's the mean over its images. `forget_mse`, `retain_mse` and
`test_mse` are against the images themselves; of attacked images those of the set on which the attack was tried, such as
`unseen_mse`, are against the images that the attack started from, and `attacked_mse` is against what the attack aimed
at, for UMA the original model's output.

`..._psnr` is the mean of each image's own -10 log10(error), and not that of the mean error, which would say the same as
the mean error. An image counts as no nearer than rounding to 8 bits leaves it, at an error of (1/255)^2 / 12: 58.9 dB
at most, so that an answer which is met exactly has a value too.

`test_gain` is for a network from which a part of every image is hidden: how much smaller its mean squared error is, in
dB, than that of the answer that fills what is hidden with the mean of what is seen, channel by channel.
`test_gain_over_average` is the same over the answer that fills it with the mean of the training images, which a network
can learn without understanding any one of them.
"""

from __future__ import annotations

import math
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
    "retained_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "retained"},
    "held_out_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "held_out"},
    "test_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "test"},
    "attacked_mse": {"unit": "squared pixel range", "kind": "mean", "bounds": (0, 1), "of": "attacked"},
    "forget_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "forget"},
    "unseen_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "unseen"},
    "retain_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "retain"},
    "retained_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "retained"},
    "held_out_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "held_out"},
    "test_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "test"},
    "attacked_psnr": {"unit": "dB", "kind": "mean", "bounds": (0, 58.93), "of": "attacked"},
    "test_gain": {"unit": "dB", "kind": "set", "bounds": (None, None), "of": "test"},
    "test_gain_over_average": {"unit": "dB", "kind": "set", "bounds": (None, None), "of": "test"},
}
ROUNDING = (1 / 255) ** 2 / 12


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the errors of each set that was asked about, and their PSNR; nan of an empty one."""
    for answers in outputs.sets:
        if answers.of != "before":
            yield answers.number(f"{answers.of}_mse", mean(answers["error"]))
            yield answers.number(f"{answers.of}_psnr", mean(decibels(answers["error"])))
        for name, metric in (("filled", "test_gain"), ("averaged", "test_gain_over_average")):
            if name in answers.kept:
                better = mean(answers[name]) / max(mean(answers["error"]), ROUNDING)
                yield answers.number(metric, 10 * math.log10(max(better, ROUNDING)))
        if answers.attack != "none":
            yield answers.number("attacked_mse", mean(answers["to_target"]))
            yield answers.number("attacked_psnr", mean(decibels(answers["to_target"])))


def mean(errors: torch.Tensor) -> float:
    """The mean of errors (N,); nan of none."""
    return errors.double().mean().item()


def decibels(errors: torch.Tensor) -> torch.Tensor:
    """The PSNR (N,) in dB of mean squared errors (N,) of pixels from 0 to 1, at most 58.9."""
    return -10 * errors.double().clamp(min=ROUNDING).log10()
