"""Unlearners: each file is one method and has one function,

    @unlearner
    def unlearn(model, forget, retain, at: Step, *, …) -> network, or (network, kept)

The workflow gives what stands before `*`. What stands after it is a hyper-parameter, with the paper's value as its
default and its range in its annotation (`palimpsest.ranges`). A method that trains the model on has `training`, a
`Recipe`. `NEEDS` of a file lists the features that not every method has: `penalty`, `original`, or in its base training
`requests`.
`kept` are tensors that a further step of the same method needs; they describe the training set as it is after this
step. Among them may be numbers about the step itself, one each, which metrics read: `told/<name>`. No further step gets
those.

A method that has another do a part of its work names that in the keyword `backbone`, takes its `settings`, and says
which will do, by what their NEEDS have and have not:

    WRAPS = {"with": ("penalty",), "without": (), "why": "it must …"}

A method whose base model must be trained in a way of its own has a second function,

    @checked
    def train_base(model, data, at: Base, *, …) -> (network, kept)

which takes a network with fresh weights and all training samples, and changes neither.

A method whose update has the form of `Response` has a function `response` beside `unlearn`, with the same arguments; it
changes none of them. `unlearn` does what it says, but for amnesiac, where it says in small what the fine-tuning does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from palimpsest.curvature import request_gradient
from palimpsest.data import Samples, replaced
from palimpsest.models import Network, finite
from palimpsest.ranges import checked, file_of
from palimpsest.tasks import Task, classification, loss_of

if TYPE_CHECKING:
    from palimpsest.train import Batch, Checkpoint, Loss, Recipe


TOLD = "told/"  # begins the names of numbers about a step among what it leaves


class Unlearned(NamedTuple):
    """What every unlearner returns: a network in evaluation mode, and what a further step needs; often nothing."""

    network: Network
    kept: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What the workflow gives an unlearner besides the model and the data.

    seed: decides everything that the method draws. recipe: how the base model was trained. task: what it was trained
    for. indices: `int64` (n,), the positions of the forget set's samples, in their order, in the training set as it is
    before this step; None where they are gone already. replacement: what shall stand in the places of the forget set's
    samples, one for each, `uint8` or float in [0, 1]; None where they shall be removed. kept: what the base training or
    the step before left. splits: by name, samples that the data set held back from training. original: the base model
    of the chain, for a method that names it in `NEEDS`. initial: makes the network with which training began.
    checkpoint: where a long training may resume. penalty: (model, batch) to a scalar that `adversarial` adds to the
    loss of the method that it wraps.
    """

    seed: int
    recipe: Recipe
    task: Task = classification
    indices: torch.Tensor | None = None
    replacement: Samples | None = None
    kept: Mapping[str, torch.Tensor] | None = None
    splits: Mapping[str, Samples] = field(default_factory=dict)
    original: Network | None = None
    initial: Callable[[], Network] | None = None
    checkpoint: Checkpoint | None = None
    penalty: Loss | None = None

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The task's loss of `model` at a batch, with the penalty where there is one."""
        loss = loss_of(self.task)(model, batch)
        return loss if self.penalty is None else loss + self.penalty(model, batch)

    def remaining(self, retain: Samples) -> Samples:
        """Return the training set after this step, in order: `retain`, and the replacements where they belong.

        Float replacements turn all images into floats in [0, 1].
        """
        if self.replacement is None:
            return retain
        assert self.indices is not None
        stays = torch.ones(len(retain.labels) + len(self.indices), dtype=torch.bool, device=retain.labels.device)
        stays[self.indices] = False
        images = retain.images.new_zeros(len(stays), *retain.images.shape[1:])
        labels = retain.labels.new_zeros(len(stays))
        images[stays], labels[stays] = retain
        return replaced(Samples(images, labels), self.indices, self.replacement)


@dataclass(frozen=True)
class Base:
    """What the workflow gives a base training besides the network and the data.

    seed, recipe, task, checkpoint: as in `Step`. requests: for each request that may come, the `int64` indices into the
    training data that it names; for a chain of requests too, all of them count into the data as it is now.
    """

    seed: int
    recipe: Recipe
    task: Task = classification
    requests: Sequence[torch.Tensor] = ()
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Response:
    """How an unlearner answers replaced samples: theta_u = start + push(sum_forget dl(z) - sum_replacement dl(z~)).

    start: (P,), the weights from which the step goes, flat as `curvature.weights`. slope: the network with whose
    weights, and in whose mode, the gradients dl are taken, by `curvature.request_gradient`; it may be shown anything
    and stays as it is. push: a symmetric linear map of (P,), or of each row of (A, P). So for a loss Psi of theta_u
    with the gradient g, and z~ = x - delta, d Psi / d delta = d/dx <push(g), sum dl(z~)>. norm: by how much push
    lengthens a vector at most, or a little less; nan where the unlearner does not say.
    """

    start: torch.Tensor
    slope: Network
    push: Callable[[torch.Tensor], torch.Tensor]
    norm: float = math.nan

    def answer(self, forget: Samples, replacement: Samples | None) -> torch.Tensor:
        """Return theta_u (P,); without `replacement` there is no second sum."""
        return self.start + self.push(request_gradient(self.slope, forget, replacement))


def unlearner(function: Callable[..., Any] | None = None, *, replaces: bool = False) -> Any:
    """Turn a method's function into what the workflow calls: (model, forget, retain, at, *, …) to `Unlearned`.

    Hyper-parameters are checked against their annotations. The method gets a copy of `model`, which it may change in
    place. An empty forget set gives the copy back, with what was kept, since nothing shall be forgotten. replaces:
    whether the method can put replacements in the place of samples; a method that cannot refuses them. Raises
    `ValueError` for a hyper-parameter outside its range and for a request that does not fit its data, and `Diverged`
    where a weight is not finite.
    """
    if function is None:
        return lambda function: unlearner(function, replaces=replaces)
    name = file_of(function)

    @wraps(function)
    def unlearn(model: Network, forget: Samples, retain: Samples, at: Step, **keywords: Any) -> Unlearned:
        at = replace(at, kept={key: kept for key, kept in (at.kept or {}).items() if not key.startswith(TOLD)} or None)
        count = len(forget.labels)
        if at.replacement is not None:
            if not replaces:
                raise ValueError(f"{name}: it removes samples and cannot put others in their place")
            if at.indices is None or len(at.replacement.labels) != count:
                raise ValueError(
                    f"{name}: {len(at.replacement.labels)} samples cannot replace {count}; "
                    "a request has one for each, and says by `indices` where they stand"
                )
        if at.indices is not None and len(at.indices) != count:
            raise ValueError(f"{name}: {len(at.indices)} indices do not say where {count} samples stand")
        if not count:
            return Unlearned(deepcopy(model).eval(), at.kept or {})
        made = function(deepcopy(model), forget, retain, at, **keywords)
        network, kept = made if isinstance(made, tuple) else (made, {})
        return Unlearned(finite(network.eval(), f"the weights after {name}"), kept)

    return checked(unlearn)


def wrapped(outer: str, wraps: Mapping[str, Any], backbone: str) -> Callable[..., Unlearned]:
    """Return the unlearner that `outer` names as its backbone; wraps: the WRAPS of its file.

    Raises `ValueError` where there is no such unlearner or where it will not do.
    """
    refused = f"{outer}: backbone cannot be {backbone!r}"
    if not backbone.isidentifier() or not Path(__file__).with_name(f"{backbone}.py").is_file():
        raise ValueError(f"{refused}: there is no file unlearners/{backbone}.py")
    method = import_module(f"palimpsest.unlearners.{backbone}")
    needs = {*getattr(method, "NEEDS", ())}
    if not needs >= {*wraps["with"]} or needs & {*wraps["without"]}:
        raise ValueError(f"{refused}: {wraps['why']}")
    function: Callable[..., Unlearned] = method.unlearn
    return function


def gathered(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain `settings` as keywords of an unlearner or a base training: keys of a `Recipe` go into its
    `training`.

    Keys that are not given stay as in the default of `training`. Raises `ValueError` for a key that neither has.
    """
    keywords = {
        one.name: one.default for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY
    }
    training = keywords.pop("training", None)
    of_training = [] if training is None else [field.name for field in fields(training)]
    for name in settings:
        if name not in (*keywords, *of_training):
            valid = ", ".join([*keywords, *of_training]) or "none"
            raise ValueError(f"{file_of(function)} has no setting {name!r}; it takes {valid}")
    found = {name: value for name, value in settings.items() if name in keywords}
    changed = {name: value for name, value in settings.items() if name not in keywords}
    return found | ({"training": replace(training, **changed)} if changed else {})
