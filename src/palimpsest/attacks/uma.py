"""UMA, the Unlearning Mapping Attack: inputs near the forgotten images that give the original model's answers back.

    argmin_{delta_x} L(f_u(delta_x; theta_u), f(x; theta)),   delta <- clip(delta - eta * sign(grad L), 0, 1)

(S000:191-214, eq. 2-4, Algorithm 1): projected gradient descent of Madry et al. towards what the original model f
said about x. Never stated there: the number of steps, eta, which loss, and the projection to the epsilon-ball that
Proposition 3 asks for on classifiers. Our decisions (methods.md 2.7): 100 steps, eta = 2.5 epsilon / steps, KL
divergence, start at x + U(-epsilon, epsilon), projection to the epsilon-ball and to [0, 1] after every step, both
models in evaluation mode; the last iterate is kept, as in Algorithm 1, and rounded to 8 bits, since an image that
cannot be saved attacks nobody. The clean image lies on the grey-level grid, so rounding stays within epsilon when
epsilon is a whole number of levels.

`target="wrong_label"` is a control of ours, not the paper's: the same search towards a random label that is neither
the truth nor the original's answer. Where it succeeds as often, the attack shows adversarial examples, not memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest import processor
from palimpsest.frozen import frozen


class Attacked(NamedTuple):
    """What the attack made.

    images: `uint8` (E, N, C, H, W), one block an epsilon. targets: `int64` (N,), the class the attack aimed at.
    loss: float32 (E, N), the attack's loss at the rounded images.
    """

    images: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


def attack(
    model: nn.Module,
    original: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    seed: int,
    epsilons: Sequence[str] = ("8/255", "16/255"),
    steps: int = 100,
    relative_step: float = 2.5,
    loss: Literal["kl", "mse", "bce", "cross_entropy"] = "kl",
    start: Literal["random", "image"] = "random",
    target: Literal["original", "wrong_label"] = "original",
    batch_size: int = 512,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Attacked:
    """Attack `uint8` images (N, C, H, W), labels (N,), in L-infinity, all epsilons in one batch.

    model: the unlearned network; original: the one before; both give logits for pixels in [0, 1] and lie on the
    images' device. epsilons: fractions of the pixel range, as text. relative_step: eta is this times epsilon / steps.
    loss: `kl` (softmax f || softmax f_u), `mse` of logits, `bce` of probabilities, `cross_entropy` to the argmax.
    start: `random` in the ball, or the `image` itself. With 0 steps the images come back unchanged.
    batch_size: attacked images at once. precision: of the networks; the images stay float32.
    """
    device = images.device
    bounds = torch.tensor([float(Fraction(epsilon)) for epsilon in epsilons], device=device)
    model.eval()
    original.eval()
    generator = torch.Generator().manual_seed(seed)
    made, targets, losses = [], [], []
    autocast = processor.autocast(device, precision)
    searched = frozen(model, images[:8].float().div_(255))
    for part, truth in zip(
        images.split(max(1, batch_size // len(bounds))),
        labels.split(max(1, batch_size // len(bounds))),
        strict=True,
    ):
        clean = part.float().div_(255)
        with torch.no_grad():
            answer = original(clean).float()
        if target == "wrong_label":
            answer = _wrong(answer, truth, generator)
        targets.append(answer.argmax(1))
        # Every epsilon's copy of the images in one batch: the networks see no difference.
        clean = clean.repeat(len(bounds), 1, 1, 1)
        wanted = answer.repeat(len(bounds), 1)
        epsilon = bounds.repeat_interleave(len(part))[:, None, None, None]
        low, high = (clean - epsilon).clamp_(min=0), (clean + epsilon).clamp_(max=1)
        x = clean.clone()
        if start == "random" and steps:
            noise = torch.rand(clean.shape, generator=generator).to(device).mul_(2).sub_(1)
            x = torch.clamp(clean + epsilon * noise, low, high)
        x = x.contiguous(memory_format=torch.channels_last)
        for _ in range(steps):
            x.requires_grad_(True)
            with autocast:
                logits = searched(x)
            (gradient,) = torch.autograd.grad(distance(logits.float(), wanted, loss).sum(), x)
            with torch.no_grad():
                x = torch.clamp(x - relative_step / steps * epsilon * gradient.sign(), low, high)
        rounded = x.detach().mul(255).round_()
        with torch.no_grad():
            reached = distance(model(rounded / 255).float(), wanted, loss)
        made.append(rounded.to(torch.uint8).view(len(bounds), *part.shape))
        losses.append(reached.view(len(bounds), -1))
    return Attacked(torch.cat(made, 1), torch.cat(targets), torch.cat(losses, 1))


def distance(logits: torch.Tensor, wanted: torch.Tensor, loss: str) -> torch.Tensor:
    """The attack's loss for each image (N,): how far `logits` of f_u (N, K) are from the wanted logits of f (N, K)."""
    if loss == "kl":
        return F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)
    if loss == "mse":
        return (logits - wanted).square().mean(1)
    if loss == "bce":
        return F.binary_cross_entropy(logits.softmax(1), wanted.softmax(1), reduction="none").mean(1)
    if loss == "cross_entropy":
        return F.cross_entropy(logits, wanted.argmax(1), reduction="none")
    raise ValueError(f"uma: loss cannot be {loss!r}; it takes kl, mse, bce, cross_entropy")


def _wrong(answer: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The original's logits (N, K) with the answer's place given to a random class, not the truth nor the answer.

    Swapping two logits keeps the target as confident as the original's own answer.
    """
    first = answer.argmax(1)
    chance = torch.rand(answer.shape, generator=generator).to(answer.device)
    chance.scatter_(1, torch.stack([first, truth], 1), -1.0)
    other = chance.argmax(1)
    swapped = answer.clone()
    rows = torch.arange(len(answer), device=answer.device)
    swapped[rows, first], swapped[rows, other] = answer[rows, other], answer[rows, first]
    return swapped
