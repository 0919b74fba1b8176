"""Features of images: what enters a network's last linear layer, its penultimate activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from palimpsest.data import pixels
from palimpsest.models import ModelError, Network, ensemble, finite


@torch.no_grad()
def entering(
    model: nn.Module, layers: Sequence[nn.Module], images: torch.Tensor, batch_size: int = 500
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """Yield, batch by batch, what enters each of `layers`, float32 (B, D), and the model's outputs; in evaluation mode.

    images: (N, ...), `uint8` or in [0, 1]. Raises `ModelError` where a layer is not passed once for each batch.
    """
    caught: list[list[torch.Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, into=into: into.append(inputs[0].float()))
        for layer, into in zip(layers, caught, strict=True)
    ]
    dtype = next(model.parameters()).dtype
    model.eval()
    try:
        for batch in images.split(batch_size):
            outputs = model(pixels(batch, dtype))
            if any(len(into) != 1 for into in caught):
                raise ModelError("the network does not pass its last linear layer once for each image")
            yield [into.pop() for into in caught], outputs
    finally:
        for handle in handles:
            handle.remove()


def observed(model: Network, images: torch.Tensor, batch_size: int = 500) -> dict[str, torch.Tensor]:
    """What a classifier sees in images: `features` (N, D), which enter its last linear layer, and its `logits` (N, K).

    Both are float32. Raises `ModelError` where it has no such layer, and `Diverged` where a number is not finite.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ModelError(f"{model.spec.method}: an observer needs a linear layer")
    parts = [(inputs[0], outputs.float()) for inputs, outputs in entering(model, layers[-1:], images, batch_size)]
    features, logits = (torch.cat(some) for some in zip(*parts, strict=True))
    return {"features": finite(features, "the observer's features"), "logits": finite(logits, "the observer's logits")}


def penultimate(model: Network, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """What enters the last linear layer of `model`, float32 (N, D); of an ensemble that of its members, side by side.

    The members began with weights of their own, so a feature of one has no counterpart in another and no mean would
    mean anything. Raises `ModelError` where there is no such layer, or where it has not one output for each class, and
    `Diverged` where a feature is not finite.
    """
    members = list(model.net.members) if isinstance(model.net, ensemble.Ensemble) else [model.net]
    linear = [[module for module in member.modules() if isinstance(module, nn.Linear)] for member in members]
    if not all(linear) or any(layers[-1].out_features != model.spec.classes for layers in linear):
        raise ModelError(f"{model.spec.method}: the network has no last linear layer with an output for each class")
    found = [torch.cat(inputs, 1) for inputs, _ in entering(model, [some[-1] for some in linear], images, batch_size)]
    return finite(torch.cat(found), "the network's features")
