"""Auxiliary heads: final layers that an attacker trains on images of one class each, on a server's frozen features.

The parameter attacks of the label-leakage paper compare them with the server's own final layer (Sections IV-A1 to
IV-B1). `label_leakage` trains them; `_dot` and `_difference` judge them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import nn

from palimpsest.features import entering
from palimpsest.models import ModelError, finite
from palimpsest.seeds import stable_seed

HeadInit = Literal["torch", "zero", "server"]
Vector = Literal["weight_and_bias", "weight"]


class Heads(NamedTuple):
    """The final layers that were trained, and the server's own; float32, heads of one class side by side.

    weight: (H, K, D). bias: (H, K). trained_on: `int64` (H,), the class that each head saw.
    server_weight: (K, D). server_bias: (K,).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    trained_on: torch.Tensor
    server_weight: torch.Tensor
    server_bias: torch.Tensor

    def only(self, chosen: torch.Tensor) -> Heads:
        """Return these heads, chosen by bool (H,) or by index, beside the same server."""
        return self._replace(weight=self.weight[chosen], bias=self.bias[chosen], trained_on=self.trained_on[chosen])

    def first(self, count: int) -> Heads:
        """Return the first `count` heads of each class, or all where it has fewer."""
        earlier = (self.trained_on[:, None] == self.trained_on).tril(-1).sum(1)
        return self.only(earlier < count)

    def vectors(self, vector: Vector = "weight_and_bias") -> tuple[torch.Tensor, torch.Tensor]:
        """The one-dimensional vectors of the heads (H, V) and of the server (V,), float64 on the CPU.

        vector: `weight_and_bias`, V = K * D + K [R]: a head that sees one class puts some of what it learns into its
        bias; or `weight` alone, V = K * D.
        """
        heads, server = self.weight.flatten(1), self.server_weight.flatten()
        if vector == "weight_and_bias":
            heads, server = torch.cat([heads, self.bias], 1), torch.cat([server, self.server_bias])
        return heads.double().cpu(), server.double().cpu()

    def of_class(self, classes: torch.Tensor) -> torch.Tensor:
        """Return, for each head, the entry of `classes` (K,) for the class that it was trained on: (H,), on the CPU."""
        if classes.shape != self.server_bias.shape:
            raise ValueError(
                f"label_leakage: {tuple(classes.shape)} is no table of the server's {len(self.server_bias)}"
            )
        return classes.cpu()[self.trained_on.cpu()]

    def mean_by_class(self, values: torch.Tensor, among: torch.Tensor | None = None) -> torch.Tensor:
        """Return the means over each class's heads: (H,) to float64 (K,); nan where a class has none.

        among: bool (H,), which heads count; all of them by default.
        """
        chosen = torch.ones(len(values), dtype=torch.bool) if among is None else among
        owners, counted = self.trained_on.cpu()[chosen], values.cpu().double()[chosen]
        sums = torch.zeros(len(self.server_bias), dtype=torch.float64).index_add_(0, owners, counted)
        return sums / torch.bincount(owners, minlength=len(sums))


class Known(NamedTuple):
    """Heads on a server whose forgotten classes are known: bool (K,), True = forgotten."""

    heads: Heads
    forgotten: torch.Tensor


class Judged(NamedTuple):
    """What an attack on the parameters decides; all on the CPU.

    decisions: bool (K,), True = judged forgotten. scores: float64 (K,), the numbers that were compared with the
    threshold. values: float64 (H,), one number for each head, for the paper's Figures 9 to 11. head_decisions: bool
    (H,). threshold: where the values, or the scores, were cut.
    """

    decisions: torch.Tensor
    scores: torch.Tensor
    values: torch.Tensor
    head_decisions: torch.Tensor
    threshold: float


def subset(count: int, size: int, seed: int, label: int, number: int) -> torch.Tensor:
    """Which `size` of a class's `count` images head `number` of that class sees: `int64` (size,)."""
    return torch.randperm(count, generator=_generator("subset", seed, label, number))[:size]


def initial(
    layer: nn.Linear, head_init: HeadInit, seed: int, label: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights (K, D) and biases (K,) that head `number` of class `label` begins with."""
    if head_init == "server":
        return layer.weight.detach(), layer.bias.detach()
    if head_init == "zero":
        return torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    with torch.random.fork_rng(devices=()):
        # torch.manual_seed would also keep this call's stack for cards not yet woken, 1 ms a head.
        torch.default_generator.manual_seed(stable_seed("auxiliary head", "init", seed, label, number))
        fresh = nn.Linear(layer.in_features, layer.out_features)
    return fresh.weight.detach(), fresh.bias.detach()


def batches(
    index: torch.Tensor, names: list[tuple[int, int, int]], epochs: int, batch_size: int
) -> Iterator[torch.Tensor]:
    """What every head sees at each step: `int64` (H, B) of its images `index` (H, N), in its own order each epoch."""
    generators = [_generator("order", *name) for name in names]
    for _ in range(epochs):
        order = torch.stack([torch.randperm(index.shape[1], generator=generator) for generator in generators])
        yield from index.gather(1, order).split(batch_size, 1)


def _generator(what: str, seed: int, label: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed("auxiliary head", what, seed, label, number))


def final_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that was registered last; `features` sees whether its output is the network's."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].bias is None:
        raise ModelError("label_leakage: the server has no last linear layer with a bias, so no head to compare with")
    return layers[-1]


@torch.no_grad()
def features(model: nn.Module, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """What enters the final layer, float32 (N, D), for `uint8` images (N, C, H, W), in evaluation mode.

    Raises `ModelError` where that layer's output is not the network's, as in an ensemble, and `Diverged` where that is
    not finite.
    """
    layer = final_layer(model)
    found = []
    for (inputs,), outputs in entering(model, [layer], images, batch_size):
        if not torch.allclose(layer.forward(inputs), finite(outputs, "label_leakage: the server's outputs")):
            raise ModelError("label_leakage: the server's last linear layer does not give its logits")
        found.append(inputs)
    return torch.cat(found)


def leave_class_out(shadows: Iterable[Known], forgotten: torch.Tensor) -> list[Known]:
    """The shadow servers that forgot none of the classes `forgotten`, bool (K,)."""
    return [shadow for shadow in shadows if not bool((shadow.forgotten & forgotten).any())]
