"""The samples at which a model's loss is steepest: those with the largest gradient over its parameters, largest first.

The healing paper names an adversary who knows the parameters (its Section 3) and runs none. We take the largest

    |d l(z; theta)|,   the Euclidean norm of the gradient of the cross entropy of one sample,

in evaluation mode: the samples that pull most at the weights, on which every unlearner that follows gradients takes its
longest step. Paul et al. (NeurIPS 2021) call this norm GraNd, early in training, and rank samples by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from palimpsest.curvature import heads, per_sample_gradients
from palimpsest.data import Images, Samples, pixels
from palimpsest.models import Network, evaluated
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, _ranked

NEEDS = ("model",)
TASKS = ("classification",)
BATCH = 500  # images at once, as few as any card takes


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, train)"] = 25,
    layers: Literal["all", "last"] = "all",
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    keep_classes: bool = False,
    memory: Annotated[int, "[1, inf)"] = 2**29,
) -> Request:
    """The `count` training samples with the largest gradient under `at.model`, largest first, ties in upstream order.

    layers: whether the gradient is over all parameters or over those of the last dense layer, of an ensemble over those
    of each member's. classes: choose among the samples of these alone. keep_classes: whether a class may not lose its
    last sample. memory: how many bytes a block of gradients over all parameters may take (`per_sample_gradients`).
    Raises `RequestError` where there are too few and where a network has no dense layer, `Diverged` where a gradient is
    not finite.
    """
    assert at.model is not None  # NEEDS
    found = _ranked.among(images, classes, count)
    some = Samples(*(part[found.to(part.device)].to(at.model.mean.device) for part in images.splits["train"]))
    if layers == "last":
        norms = [*_of_last_layer(at.model, some)]
    else:
        blocks = per_sample_gradients(at.model, some, memory=memory)
        norms = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks]
    return _ranked.first(images, found, torch.cat(norms), count, keep_classes)


def _of_last_layer(model: Network, samples: Samples) -> Iterator[torch.Tensor]:
    """Yield each sample's norm, `float64` (B,): its gradient is that of the layer's outputs times the inputs."""
    try:
        layers = heads(model)
    except ValueError as error:
        raise RequestError(f"gradient_norm: {error}, so `layers: last` ranks nothing") from error
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cut(head: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        seen.append((given[0], output.detach().requires_grad_()))
        return seen[-1][1]

    held = {name: parameter.detach() for name, parameter in model.named_parameters()}  # so that no graph lies below
    hooks = [head.register_forward_hook(cut) for head in layers]
    try:
        with evaluated(model), torch.enable_grad():
            for images, labels in zip(samples.images.split(BATCH), samples.labels.split(BATCH), strict=True):
                seen.clear()
                outputs = functional_call(model, held, (pixels(images, model.mean.dtype),))
                loss = F.cross_entropy(outputs, labels, reduction="sum")
                slopes = torch.autograd.grad(loss, [output for _, output in seen])
                squares = [
                    slope.double().square().sum(1) * (given.double().square().sum(1) + (head.bias is not None))
                    for head, slope, (given, _) in zip(layers, slopes, seen, strict=True)
                ]
                yield torch.stack(squares).sum(0).sqrt()
    finally:
        for hook in hooks:
            hook.remove()
