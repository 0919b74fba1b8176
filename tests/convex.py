"""A convex problem with exact answers: softmax regression in float64, small enough for its whole Hessian."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.curvature import flat
from palimpsest.data import Samples, pixels

CLASSES, SHAPE = 3, (1, 2, 3)


class Regression(nn.Module):
    """Softmax regression on centred pixels; takes what a Network takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(4 * (x.flatten(1) - 0.5))


def clouds(count: int, seed: int = 0) -> Samples:
    """Overlapping classes: a mean image each, with noise of half the grey range."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    means = torch.rand(CLASSES, *SHAPE, generator=generator)
    images = means[labels] + 0.4 * torch.randn(count, *SHAPE, generator=generator)
    return Samples((images.clamp(0, 1) * 255).to(torch.uint8), labels)


def objective(vector: torch.Tensor, samples: Samples, decay: float) -> torch.Tensor:
    """Mean cross entropy plus decay / 2 |theta|^2 at the flat parameters (21,), written without the package."""
    inputs = 4 * (pixels(samples.images, vector.dtype).flatten(1) - 0.5)
    logits = inputs @ vector[:18].view(CLASSES, 6).T + vector[18:]
    return F.cross_entropy(logits, samples.labels) + decay / 2 * vector.square().sum()


def hessian(vector: torch.Tensor, samples: Samples, decay: float) -> torch.Tensor:
    return torch.func.hessian(objective)(vector, samples, decay)


def minimum(samples: Samples, decay: float) -> torch.Tensor:
    """The minimiser to machine precision, by Newton's method with the whole Hessian."""
    vector = torch.zeros(21, dtype=torch.float64)
    for _ in range(50):
        slope = torch.func.grad(objective)(vector, samples, decay)
        if slope.norm() < 1e-14:
            break
        vector = vector - torch.linalg.solve(hessian(vector, samples, decay), slope)
    assert slope.norm() < 1e-12
    return vector


def trained(samples: Samples, decay: float) -> Regression:
    """A regression that lies in its minimum."""
    model = Regression()
    with torch.no_grad():
        vector = minimum(samples, decay)
        model.linear.weight.copy_(vector[:18].view(CLASSES, 6))
        model.linear.bias.copy_(vector[18:])
    assert torch.equal(flat(list(model.parameters())), vector)
    return model
