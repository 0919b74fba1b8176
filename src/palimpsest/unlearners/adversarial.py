"""Adversarial unlearning: another unlearner, trained on attacked forget images as well (UMA paper, Section 5.3).

    min_{f_u} E{ L_u(f_u(x_u), y) + max_{delta in A(f, f_u, x)} L_u(f_u(delta), y) }                        (eq. 5)

L_u is the loss that the other method, the backbone, has on the forget set; A is UMA against the network of the moment.
The backbone in the paper's Table 4 is random labels. Methods that do not train on the forget set have no L_u and are
refused, as the paper says of retraining and fine-tuning (Section 5.3).

Eq. 5 takes the worst input that A can make, but A seeks the original's answer f(x) and does not maximise L_u.
`inner="uma"` trains on the input that A ends at; `inner="loss"` is the literal maximum of L_u over the ball. The paper
gives no number for A here. We decided (docs/methods.md 2.7): 8/255, 10 steps, and as in attacks/on_images/uma.py eta =
2.5 epsilon / steps, KL divergence, random start, evaluation mode; the attack is made afresh for every batch, from its
augmented images, and is not rounded to 8 bits. The loss on attacked images is taken in training mode and with the
batch's other images around them: BatchNorm then sees the same mixture as for the clean images, and a lone forget image
is no batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.data import Samples
from palimpsest.models import Network, evaluated
from palimpsest.seeds import stable_seed
from palimpsest.tasks import at_least_float32
from palimpsest.tasks.classification import distance
from palimpsest.train import Batch
from palimpsest.unlearners import Step, Unlearned, gathered, unlearner, wrapped

TASKS = ("classification",)
WRAPS = {"with": ("penalty",), "without": (), "why": "it must train on the forget set (UMA paper, Section 5.3)"}

# Methods that climb: their L_u is -CE.
ASCENDING = frozenset({"negative_gradient"})


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    backbone: str = "random_label",
    settings: Mapping[str, Any] = MappingProxyType({}),
    weight: Annotated[float, "[0, inf)"] = 1.0,
    epsilon: Annotated[str, "[0, 1]"] = "8/255",
    steps: Annotated[int, "[0, inf)"] = 10,
    relative_step: Annotated[float, "(0, inf)"] = 2.5,
    inner: Literal["uma", "loss"] = "uma",
) -> Unlearned:
    """Return `model` after `backbone`, with `weight` times L_u at the attacked forget images added to every batch's
    loss.

    backbone: another unlearner, one that trains on the forget set. settings: its hyper-parameters. weight: 1 counts an
    attacked image as much as a clean one. epsilon: radius of the L-infinity ball, a fraction of the pixel range, as
    text. relative_step: a step is this times epsilon / steps; with 0 steps the method trains on the random start.
    inner: see the module. Raises `ValueError` for another backbone or setting, and what the backbone raises.
    """
    train = wrapped("adversarial", WRAPS, backbone)
    original = deepcopy(model).eval().requires_grad_(False)
    radius, count = float(Fraction(epsilon)), len(forget.labels)

    def penalty(model: nn.Module, batch: Batch) -> torch.Tensor:
        chosen = (batch.index < count).nonzero().squeeze(1)
        if not len(chosen):
            return batch.images.new_zeros(())
        clean = batch.images[chosen].contiguous(memory_format=torch.channels_last)
        targets = batch.labels[chosen]
        # An image occurs once an epoch, so the first one names the batch.
        generator = torch.Generator().manual_seed(stable_seed(at.seed, "adversarial", batch.epoch, int(batch.index[0])))
        noise = torch.rand(clean.shape, generator=generator).to(clean).mul_(2).sub_(1)
        wanted = at_least_float32(original(clean))

        def objective(logits: torch.Tensor) -> torch.Tensor:
            if inner == "uma":
                return distance(logits, wanted, "kl")
            entropy = F.cross_entropy(logits, targets, reduction="none")
            return entropy if backbone in ASCENDING else -entropy

        shown = batch.images.clone()
        shown[chosen] = search(model, clean, noise, objective, radius, steps, relative_step)
        logits = at_least_float32(model(shown))[chosen]
        # The clean images' loss is a mean over the whole batch, so each of them weighs one in its length.
        return weight * F.cross_entropy(logits, targets, reduction="sum") / len(batch.index)

    return train(model, forget, retain, replace(at, penalty=penalty), **gathered(train, settings))


def search(
    model: nn.Module,
    clean: torch.Tensor,
    noise: torch.Tensor,
    objective: Callable[[torch.Tensor], torch.Tensor],
    radius: float,
    steps: int,
    relative_step: float,
) -> torch.Tensor:
    """Return images (B, C, H, W) in [0, 1], within `radius` of `clean`, at which `model` has a low `objective`.

    noise: where in the ball to start, from -1 to 1, shaped like `clean`. objective: logits (B, K) to losses (B,). The
    model computes in evaluation mode; afterwards it is in the mode it came in, and its gradients are untouched.
    """
    low, high = (clean - radius).clamp_(min=0), (clean + radius).clamp_(max=1)
    x = torch.clamp(clean + radius * noise, low, high)
    with evaluated(model):
        for _ in range(steps):
            x.requires_grad_(True)
            # The weights keep their flags but get no gradient: only the path to x is walked back.
            (gradient,) = torch.autograd.grad(objective(at_least_float32(model(x))).sum(), x)
            with torch.no_grad():
                x = torch.clamp(x - relative_step / steps * radius * gradient.sign(), low, high)
    return x.detach()
