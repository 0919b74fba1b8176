"""Amnesiac unlearning: take back the parameter updates of every batch that held the data (Graves et al., AAAI 2021).

    theta_u = theta_T - sum_{steps t whose batch holds a sample of the request} (theta_{t+1} - theta_t)

and then fine-tune on what is left (S004:73; public code: AmnesiacML's notebooks; methods.md 2.2). The base model must
have been trained with the log, by `train_base`, which has to know the requests; it trains bit for bit as without one.
The public code stores every such update in a file of its own and subtracts them later; only their sum is needed, so a
request costs 8 bytes a parameter (float64, in which the sum does not drift), however many batches it touches.

As there, weights and biases are taken back, BatchNorm's scale and shift included; running statistics, which saw the
data too, stay until fine-tuning moves them. With shuffled batches of 64 a whole class of ten touches all but 0.1% of
them: what is left after the subtraction is nearly the initial network, and fine-tuning does the work.

Requests that modify data (methods.md 2.5): the same subtraction, then fine-tuning with the replacements; our reading,
the malicious paper being silent.

Values: 1 epoch of fine-tuning at lr 1e-4 (S004:191). The notebooks, which the leakage paper's accuracies fit, train on
with their Adam at 1e-3 for 10 epochs: `epochs=10, lr=1e-3`. Neither paper names another optimiser for it, so it is the
base recipe's, with its batch size and weight decay, at a constant rate; it starts fresh, where the notebooks keep the
moments of the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.train import Batch, Checkpoint, Recipe, fit


def train_base(
    model: Network,
    data: Samples,
    *,
    seed: int,
    recipe: Recipe,
    requests: Sequence[torch.Tensor],
    checkpoint: Checkpoint | None = None,
) -> tuple[Network, dict[str, torch.Tensor]]:
    """A copy of `model` trained with `recipe` on `data`, and the log of `requests`.

    requests: for each the `int64` indices into `data` that it may ask to forget. The log holds, on the model's device,
    `request0/indices` and for each parameter the float64 sum of its updates, `request0/net.…`.
    """
    network = deepcopy(model)
    held = torch.zeros(len(requests), len(data.labels), dtype=torch.bool, device=data.labels.device)
    kept: dict[str, torch.Tensor] = {}
    for number, indices in enumerate(requests):
        held[number, indices] = True
        kept[f"request{number}/indices"] = indices.clone()
        for name, parameter in network.named_parameters():
            kept[f"request{number}/{name}"] = torch.zeros_like(
                parameter, dtype=torch.float64, requires_grad=False, memory_format=torch.contiguous_format
            )

    def add(training: nn.Module, batch: Batch, factor: int) -> None:
        for number in held[:, batch.index].any(1).nonzero().flatten().tolist():
            for name, parameter in training.named_parameters():
                kept[f"request{number}/{name}"].add_(parameter.detach(), alpha=factor)

    # Weights after the step less weights before it: the update, without a copy of the weights in between.
    fit(
        network,
        data.images,
        data.labels,
        recipe,
        seed=seed,
        before_step=lambda training, batch: add(training, batch, -1),
        after_step=lambda training, batch: add(training, batch, 1),
        kept=kept,
        checkpoint=checkpoint,
    )
    return network, kept


def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    *,
    seed: int,
    recipe: Recipe,
    indices: torch.Tensor,
    kept: Mapping[str, torch.Tensor] | None,
    replacement: Samples | None = None,
    checkpoint: Checkpoint | None = None,
    epochs: int = 1,
    lr: float = 1e-4,
) -> Network:
    """`model` less the logged updates of the request `indices`, fine-tuned for `epochs` passes at rate `lr`.

    kept: the log that `train_base` left. replacement: `uint8` samples that join `retain` in the fine-tuning; None
    removes `forget`. checkpoint: of the fine-tuning. With 0 epochs nothing is fine-tuned.
    Raises `ValueError` where the log is missing or does not know the request, or nothing is left to fine-tune on.
    """
    network = deepcopy(model)
    if not len(forget.labels):
        return network
    if kept is None:
        raise ValueError("amnesiac: the base model has no log of its updates; train it with amnesiac's train_base")
    request = _request(kept, indices)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(parameter.double() - kept[f"{request}/{name}"])
    left = retain if replacement is None else Samples(*map(torch.cat, zip(retain, replacement, strict=True)))
    if left.images.dtype != torch.uint8:
        raise ValueError(f"amnesiac: it is trained on uint8 images, and the replacements are {left.images.dtype}")
    if epochs and not len(left.labels):
        raise ValueError("amnesiac: nothing is retained to fine-tune on; epochs=0 leaves the fine-tuning out")
    recipe = replace(recipe, epochs=epochs, lr=lr, schedule="constant", warmup_epochs=0.0)
    return fit(network, left.images, left.labels, recipe, seed=seed, checkpoint=checkpoint)


def _request(kept: Mapping[str, torch.Tensor], indices: torch.Tensor) -> str:
    """The name under which the log holds exactly these indices."""
    for name, logged in kept.items():
        if name.endswith("/indices") and torch.equal(logged, indices.to(logged.device)):
            return name.removesuffix("/indices")
    raise ValueError(
        f"amnesiac: the log does not hold the request for these {len(indices)} samples; "
        "updates are logged during training, for the requests that train_base was told"
    )
