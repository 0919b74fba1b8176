"""Tasks: what a network is trained to answer. Each file is one task and has the functions of `Task`.

Nothing outside a task assumes what its targets are, nor what a network's outputs mean. A method that does (a model, an
unlearner, an attack, a kind of request or a family of metrics) names the tasks that it is for, `TASKS =
("classification",)`, in a literal that the workflow reads; a method without it is for all tasks. `models.<name>.task`
in the configuration names a network's task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn


class Shown(Protocol):
    """Samples, or a batch of them: images (N, ...), `uint8` or float in [0, 1], and labels (N,)."""

    @property
    def images(self) -> torch.Tensor: ...
    @property
    def labels(self) -> torch.Tensor: ...


class Task(Protocol):
    """What a file of this package is.

    targets: what the network shall answer for samples. loss: the mean distance of outputs (N, ...) from targets, a
    scalar. answer: outputs as a prediction. decided: the targets that outputs would have, which are the target of an
    attack that wants these outputs. distance: how far outputs are from wanted outputs, for each sample (N,); `kind` is
    one of the words that the task knows. kept: the tensors (N, ...), by name, that are saved of outputs (N, ...) for
    metrics to measure. The outputs are for samples, or for what an attack or a defense made of them. aimed: what the
    attack aimed at. brief: whether the set is so large that only a few numbers a sample can be kept.
    """

    def targets(self, samples: Shown) -> torch.Tensor: ...
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...
    def answer(self, outputs: torch.Tensor) -> torch.Tensor: ...
    def decided(self, outputs: torch.Tensor) -> torch.Tensor: ...
    def distance(self, outputs: torch.Tensor, wanted: torch.Tensor, kind: str) -> torch.Tensor: ...
    def kept(
        self, answers: torch.Tensor, samples: Shown, aimed: torch.Tensor | None, brief: bool
    ) -> dict[str, torch.Tensor]: ...


class Pictures(Task, Protocol):
    """A task whose answers are pictures.

    pictured: answers as `uint8` images (N, C, H, W). filled: the distance (N,) between samples and what an answer
    without a network makes of them: what is hidden of each, where `visible`, bool (N, 1, H, W), is false, is filled
    with the mean of the rest, channel by channel, or with the `average` of all images (C, H, W).
    """

    def pictured(self, answers: torch.Tensor) -> torch.Tensor: ...
    def filled(self, samples: Shown, visible: torch.Tensor, average: torch.Tensor | None = None) -> torch.Tensor: ...


def loss_of(task: Task) -> Callable[[nn.Module, Any], torch.Tensor]:
    """The task's loss of a network at a batch: (model, batch) to a scalar."""
    return lambda model, batch: task.loss(model(batch.images), task.targets(batch))


def at_least_float32(outputs: torch.Tensor) -> torch.Tensor:
    """Outputs in a type that a loss may be taken in; autocast hands over bfloat16."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
