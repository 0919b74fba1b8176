"""The one training loop: base models, retraining and every unlearner that trains.

The data set is one `uint8` tensor on the device; shuffling and augmentation are batched there. What is random in an
epoch depends on the seed and the epoch's number alone, so a training that was killed resumes at its last whole
epoch and ends, on a CPU, with the same weights as one that was not.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from palimpsest import data, processor
from palimpsest.models import Diverged
from palimpsest.seeds import stable_seed

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Batches = Callable[[int, torch.Generator], Sequence[torch.Tensor]]
Relabel = Callable[[int, torch.Generator, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    epoch: from 0. index: `int64` (B,), which of the training images. pixels: float (B, C, H, W) in [0, 1], augmented.
    targets: `int64` (B,), the epoch's labels.
    """

    epoch: int
    index: torch.Tensor
    pixels: torch.Tensor
    targets: torch.Tensor


Hook = Callable[[nn.Module, Batch], None]
Penalty = Callable[[nn.Module, Batch], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs: passes over the data. batch_size: images a step. lr: learning rate at the start (the peak, with warm-up).
    optimizer: `sgd` (with `momentum`) or `adam`; both with coupled `weight_decay`.
    schedule: `constant`, `multistep` (x 0.1 at the epochs in `milestones`) or `cosine` (to zero at the end).
    warmup_epochs: linear from zero to `lr`, before the schedule. augment: any of `crop` (4 pixels of zero padding,
    random crop back) and `flip` (horizontal, with probability 1/2).
    precision: `float32`, or `bfloat16` for autocast where the hardware has it; weights and optimiser stay float32.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    milestones: Sequence[int] = ()
    warmup_epochs: float = 0.0
    augment: Sequence[str] = ()
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("optimizer", self.optimizer, ("sgd", "adam")),
            ("schedule", self.schedule, ("constant", "multistep", "cosine")),
            ("precision", self.precision, ("float32", "bfloat16")),
            *(("augment", name, ("crop", "flip")) for name in self.augment),
        ):
            if value not in valid:
                raise ValueError(f"recipe: {name} cannot be {value!r}; it takes {', '.join(valid)}")

    def continued(
        self, *, epochs: int, lr: float, batch_size: int, momentum: float, weight_decay: float,
        optimizer: str = "sgd",
    ) -> Recipe:  # fmt: skip
        """Training on at a constant rate, with this recipe's augmentation and precision: how unlearners train on."""
        return replace(
            self,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            momentum=momentum,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule="constant",
            warmup_epochs=0.0,
        )

    def rate(self, epoch: float) -> float:
        """The learning rate at `epoch` (fractions count the steps within it)."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        if self.schedule == "multistep":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr


@dataclass(frozen=True)
class Checkpoint:
    """Where a training leaves what it needs to go on.

    path: the resume file; deleted by whoever keeps the finished model. key: a hash of all that the training depends
    on; a file with another key is ignored, so that a changed hyper-parameter never continues an old run.
    seconds: least time between two writes.
    """

    path: Path
    key: str
    seconds: float = 30.0
    _written: list[float] = field(default_factory=lambda: [time.monotonic()])

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, kept: Mapping[str, torch.Tensor]
    ) -> None:
        """Write the state after `epoch` whole epochs, if enough time has passed; atomic."""
        if time.monotonic() - self._written[0] < self.seconds:
            return
        tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in values.items()}
        tensors |= {f"kept/{name}": tensor for name, tensor in kept.items()}
        temporary = self.path.with_name(self.path.name + f".{os.getpid()}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {n: tensor.detach().cpu().clone().contiguous() for n, tensor in tensors.items() if tensor is not None}
        try:
            save_file(state, str(temporary), metadata={"key": self.key, "epoch": str(epoch)})
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._written[0] = time.monotonic()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, torch.Tensor]) -> int:
        """Load the state of an interrupted run into `model`, `optimizer` and `kept`; the epochs it had done, else 0."""
        if not self.path.exists():
            return 0
        try:
            with safe_open(str(self.path), framework="pt") as file:
                header = file.metadata() or {}
                if header.get("key") != self.key:
                    log.info("ignoring %s: it belongs to other code or parameters", self.path)
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except Exception as error:  # safetensors raises its own untyped error
            log.warning("ignoring %s: not readable (%s)", self.path, error)
            return 0
        model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, entry = name.split("/")
                state.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for name, tensor in kept.items():
            tensor.copy_(tensors[f"kept/{name}"])
        epoch = int(header["epoch"])
        log.info("resuming %s after epoch %d", self.path, epoch)
        return epoch


def shuffled(count: int, batch_size: int) -> Batches:
    """Batches of a fresh permutation each epoch; a last batch of one is dropped (BatchNorm has no variance there)."""

    def batches(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        order = torch.randperm(count, generator=generator)
        parts = order.split(batch_size)
        return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts

    return batches


def augmented(images: torch.Tensor, augment: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """Randomly cropped and flipped `uint8` images (N, C, H, W), each image with its own draw."""
    count, _, height, width = images.shape
    device = images.device
    if "crop" in augment:
        pad = 4
        rows = torch.randint(2 * pad + 1, (count, 1), generator=generator).to(device) + torch.arange(
            height, device=device
        )
        cols = torch.randint(2 * pad + 1, (count, 1), generator=generator).to(device) + torch.arange(
            width, device=device
        )
        padded = F.pad(images, (pad,) * 4)
        which = torch.arange(count, device=device)[:, None, None]
        images = padded[which, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    if "flip" in augment:
        flip = (torch.rand(count, generator=generator) < 0.5).to(device)
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    return images


def fit(
    model: M,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    *,
    seed: int,
    batches: Batches | None = None,
    relabel: Relabel | None = None,
    penalty: Penalty | None = None,
    before_step: Hook | None = None,
    after_step: Hook | None = None,
    kept: Mapping[str, torch.Tensor] = MappingProxyType({}),
    checkpoint: Checkpoint | None = None,
) -> M:
    """Train `model` in place on `uint8` images (N, C, H, W) and `int64` labels (N,), all on the model's device.

    seed: decides shuffling, augmentation and dropout. batches: (epoch, generator) to index batches; default a fresh
    permutation. relabel: (epoch, generator, labels) to the epoch's labels. penalty: (model, batch) to a scalar added
    to the cross entropy. before_step, after_step: called with (model, batch) around every optimiser step.
    kept: tensors that these change in place, for the checkpoint to carry.
    Raises `Diverged` when the loss of an epoch is not finite.
    """
    device = images.device
    layout = processor.layout(model, device)
    model.to(memory_format=layout)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = batches or shuffled(len(images), recipe.batch_size)
    first = checkpoint.restore(model, optimizer, kept) if checkpoint else 0
    autocast = processor.autocast(device, recipe.precision)
    for epoch in range(first, recipe.epochs):
        generator = torch.Generator().manual_seed(stable_seed(seed, epoch))
        torch.manual_seed(stable_seed(seed, epoch, "layers"))
        targets = relabel(epoch, generator, labels) if relabel else labels
        plan = batches(epoch, generator)
        model.train()
        total = torch.zeros((), device=device)
        started = time.perf_counter()
        for step, index in enumerate(plan):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch + step / len(plan))
            index = index.to(device)
            shown = data.pixels(augmented(images[index], recipe.augment, generator))
            batch = Batch(epoch, index, shown.contiguous(memory_format=layout), targets[index])
            with autocast:
                loss = F.cross_entropy(model(batch.pixels).float(), batch.targets)
                if penalty:
                    loss = loss + penalty(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if before_step:
                before_step(model, batch)
            optimizer.step()
            if after_step:
                after_step(model, batch)
            total += loss.detach()
        mean = total.item() / max(len(plan), 1)
        speed = sum(map(len, plan)) / (time.perf_counter() - started)
        log.info("epoch %d of %d: loss %.4f, %.0f images/s", epoch + 1, recipe.epochs, mean, speed)
        if not math.isfinite(mean):
            raise Diverged(
                f"the loss was {mean} in epoch {epoch + 1} of {recipe.epochs}; a lower learning rate mends it"
            )
        if checkpoint and epoch + 1 < recipe.epochs:
            checkpoint.save(model, optimizer, epoch + 1, kept)
    model.eval()
    return model


def recipe_from(settings: Mapping[str, Any]) -> Recipe:
    """A recipe from plain configuration values; a misspelt key is an error that lists the valid ones."""
    unknown = sorted(set(settings) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise ValueError(f"recipe has no key {unknown[0]!r}; it takes {', '.join(Recipe.__dataclass_fields__)}")
    return Recipe(**settings)
