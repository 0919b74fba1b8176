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
from typing import Annotated, Any, Literal, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from palimpsest import data, processor, ranges
from palimpsest.data import Samples
from palimpsest.models import Diverged, finite
from palimpsest.seeds import stable_seed
from palimpsest.tasks import Task, classification, loss_of

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Batches = Callable[[int, torch.Generator], Sequence[torch.Tensor]]
Relabel = Callable[[int, torch.Generator, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """What one step of training sees.

    epoch: counted from 0. index: `int64` (B,), the positions among the training samples. images: float (B, ...) in [0,
    1], augmented, in the network's own type. labels: (B,), those of this epoch.
    """

    epoch: int
    index: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor


Hook = Callable[[nn.Module, Batch], None]
Loss = Callable[[nn.Module, Batch], torch.Tensor]
Stop = Callable[[nn.Module, Batch], bool]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs: passes over the data; 0 leaves published weights as they are. batch_size: images a step. lr: the learning
    rate at the start (after warm-up, where there is one). optimizer: `sgd` (with `momentum`) or `adam`, both with
    coupled `weight_decay`, or `adamw`, which decouples it; the last two with `betas`. clip: the largest norm of a
    step's gradient, over all weights together; none leaves it. schedule: `constant`, `multistep` (x 0.1 at the epochs
    in `milestones`) or `cosine` (to zero at the end). warmup_epochs: the rate rises linearly from zero to `lr` before
    the schedule begins. augment: any of `crop` (4 pixels of zero padding, then a random crop back) and `flip`
    (horizontal, with probability 1/2). precision: `float32`, or `bfloat16` for autocast
    where the hardware has it; weights and optimiser stay float32. None in the last two means no augmentation and
    float32; where a method trains a model on, None means that both are as the base model was trained.
    """

    epochs: Annotated[int, "[0, inf)"]
    batch_size: Annotated[int, "[1, inf)"]
    lr: Annotated[float, "[0, inf)"]
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Annotated[float, "[0, 1)"] = 0.9
    weight_decay: Annotated[float, "[0, inf)"] = 5e-4
    betas: Sequence[Annotated[float, "[0, 1)"]] = (0.9, 0.999)
    clip: Annotated[float, "(0, inf)"] | None = None
    schedule: Literal["constant", "multistep", "cosine"] = "constant"
    milestones: Sequence[Annotated[int, "[0, inf)"]] = ()
    warmup_epochs: Annotated[float, "[0, inf)"] = 0.0
    augment: Sequence[Literal["crop", "flip"]] | None = None
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        for name, annotation in Recipe.__annotations__.items():
            if refusal := ranges.parse(annotation).refusal("recipe", name, getattr(self, name)):
                raise ValueError(refusal)

    def continued(self, training: Recipe) -> Recipe:
        """Return `training` for a network that this recipe trained: with the same augmentation and precision, unless it
        sets them.
        """
        return replace(
            training,
            augment=self.augment if training.augment is None else training.augment,
            precision=training.precision or self.precision,
        )

    def rate(self, epoch: float) -> float:
        """Return the learning rate at `epoch`; fractions of an epoch count the steps within it."""
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
    """Where a training saves what it needs to resume.

    path: the resume file; whoever keeps the finished model deletes it. key: a hash of everything that the training
    depends on; a file with another key is ignored, so that a changed hyper-parameter never continues an old run.
    seconds: the least time between two writes. earlier: how long what was restored had taken, in seconds; the same of
    its parts follows.
    """

    path: Path
    key: str
    seconds: float = 30.0
    earlier: list[float] = field(default_factory=list)
    _above: tuple[list[float], ...] = ()
    _started: float = field(default_factory=time.monotonic)
    _written: list[float] = field(default_factory=lambda: [time.monotonic()])

    def part(self, name: str, key: str) -> Checkpoint:
        """Return a checkpoint with a file and a clock of its own beside this one, for a training within a training."""
        path, above = self.path.with_name(f"{self.path.name}.{name}"), (self.earlier, *self._above)
        return Checkpoint(path, f"{self.key}/{key}", self.seconds, _above=above)

    def save(self, done: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the state after `done` whole epochs (or parts) if enough time has passed; the write is atomic."""
        if time.monotonic() - self._written[0] < self.seconds:
            return
        temporary = self.path.with_name(self.path.name + f".{os.getpid()}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        try:
            taken = time.monotonic() - self._started + sum(self.earlier)
            save_file(state, str(temporary), metadata={"key": self.key, "done": str(done), "taken": str(taken)})
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._written[0] = time.monotonic()

    def restore(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Return how much an interrupted run had done and its tensors, on the CPU; 0 and none where there is no such
        run.
        """
        if not self.path.exists():
            return 0, {}
        try:
            with safe_open(str(self.path), framework="pt") as file:
                header = file.metadata() or {}
                if header.get("key") != self.key:
                    log.info("ignoring %s: it belongs to other code or parameters", self.path)
                    return 0, {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except Exception as error:  # safetensors raises its own untyped error
            log.warning("ignoring %s: not readable (%s)", self.path, error)
            return 0, {}
        log.info("resuming %s after %s", self.path, header["done"])
        for earlier in (self.earlier, *self._above):
            earlier.append(float(header["taken"]))
        return int(header["done"]), tensors


def shuffled(count: int, batch_size: int) -> Batches:
    """Return batches of a fresh permutation for each epoch; a last batch of one is dropped (BatchNorm has no variance
    there).
    """

    def batches(epoch: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
        order = torch.randperm(count, generator=generator)
        parts = order.split(batch_size)
        return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts

    return batches


def augmented(images: torch.Tensor, augment: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, H, W), `uint8` or float, randomly cropped and flipped; each image has a draw of its own."""
    count, device = len(images), images.device
    if "crop" in augment:
        pad, (height, width) = 4, images.shape[2:]
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
    samples: Samples,
    recipe: Recipe,
    *,
    seed: int,
    task: Task = classification,
    loss: Loss | None = None,
    stop: Stop | None = None,
    batches: Batches | None = None,
    relabel: Relabel | None = None,
    before_step: Hook | None = None,
    after_step: Hook | None = None,
    kept: dict[str, torch.Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
) -> M:
    """Train `model` in place on `samples`, `uint8` or float, all on the model's device, and leave it in evaluation
    mode.

    seed: decides shuffling, augmentation and dropout. loss: (model, batch) to a scalar to be lowered; by default the
    task's. stop: (model, batch), called after every step; training ends where it returns true. batches: (epoch,
    generator) to batches of indices; by default a fresh permutation. relabel: (epoch, generator, labels) to the labels
    of that epoch. before_step, after_step: called with (model, batch) around every step of the optimiser, when the
    gradients are there. kept: tensors that these functions write, for the checkpoint to carry. In a batch of one sample
    there is no variance, so BatchNorm uses its running statistics and leaves them as they are. Raises `Diverged` where
    the loss of an epoch, or a weight at the end, is not finite.
    """
    images, labels = samples
    device, dtype = images.device, next(model.parameters()).dtype
    layout = processor.layout(model, device)
    model.to(memory_format=layout)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay)
    else:
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, lr=recipe.lr, weight_decay=decay, betas=(recipe.betas[0], recipe.betas[1]))
    loss, kept = loss or loss_of(task), {} if kept is None else kept
    batches = batches or shuffled(len(images), recipe.batch_size)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    first, state = checkpoint.restore() if checkpoint else (0, {})
    if first:
        kept |= {name: tensor.to(device) for name, tensor in _resumed(model, optimizer, state).items()}
    autocast = processor.autocast(device, recipe.precision or "float32")
    ended = False
    for epoch in range(first, recipe.epochs):
        generator = torch.Generator().manual_seed(stable_seed(seed, epoch))
        torch.manual_seed(stable_seed(seed, epoch, "layers"))
        named = relabel(epoch, generator, labels) if relabel else labels
        plan = batches(epoch, generator)
        model.train()
        total, seen = torch.zeros((), device=device), 0
        started = time.perf_counter()
        for step, index in enumerate(plan):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch + step / len(plan))
            for norm in norms:
                norm.train(len(index) > 1)
            index = index.to(device)
            shown = data.pixels(augmented(images[index], recipe.augment or (), generator), dtype)
            shown = shown.contiguous(memory_format=layout) if shown.ndim == 4 else shown
            batch = Batch(epoch, index, shown, named[index])
            with autocast:
                value = loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if before_step:
                before_step(model, batch)
            if recipe.clip:
                nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            if after_step:
                after_step(model, batch)
            total += value.detach()
            seen += len(index)
            if stop and (ended := stop(model, batch)):
                break
        mean = total.item() / max(step + 1 if plan else 0, 1)
        speed = seen / (time.perf_counter() - started)
        log.info("epoch %d of %d: loss %.4f, %.0f images/s", epoch + 1, recipe.epochs, mean, speed)
        if not math.isfinite(mean):
            raise Diverged(
                f"the loss was {mean} in epoch {epoch + 1} of {recipe.epochs}; a lower learning rate mends it"
            )
        if ended:
            break
        if checkpoint and epoch + 1 < recipe.epochs:
            checkpoint.save(epoch + 1, _state(model, optimizer, kept))
    optimizer.zero_grad(set_to_none=True)
    return finite(model, "the weights after training").eval()


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what a training needs to resume, as tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        found = {f"optimizer/{index}/{name}": value for name, value in values.items() if value is not None}
        tensors |= {name: torch.as_tensor(value) for name, value in found.items()}
    return tensors | {f"kept/{name}": tensor for name, tensor in kept.items()}


def _resumed(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Load what `_state` returned into `model` and `optimizer`, and return the kept tensors."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}, "kept": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, entry = name.partition("/")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return parts["kept"]


def recipe_from(settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe from plain configuration values; a misspelt key is an error that lists the valid ones."""
    unknown = sorted(set(settings) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise ValueError(f"recipe has no key {unknown[0]!r}; it takes {', '.join(Recipe.__dataclass_fields__)}")
    return Recipe(**settings)
