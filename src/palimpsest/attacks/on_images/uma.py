"""UMA, the Unlearning Mapping Attack: inputs near the forgotten images that give the original model's answers back.

    argmin_{delta_x} L(f_u(delta_x; theta_u), f(x; theta)),   delta <- clip(delta - eta * sign(grad L), 0, 1)

(Sections 4.2 and 4.3, eq. 2-4, Algorithm 1). It is projected gradient descent of Madry et al. towards the original
model's output f(x). The paper never states the number of steps, eta, the loss, and the projection to the epsilon-ball
that its Proposition 3 requires for classifiers. We decided (docs/methods.md 2.7): 100 steps, eta = 2.5 epsilon / steps,
KL divergence, start at x + U(-epsilon, epsilon), projection to the epsilon-ball and to [0, 1] after every step, and
both models in evaluation mode. The last iterate is kept, as in Algorithm 1, and rounded to 8 bits, since an image that
cannot be saved attacks nobody. The clean image lies on the grid of grey levels, so the rounded image stays within
epsilon when epsilon is a whole number of levels.

An epsilon may be `none`: then only [0, 1] bounds the image, as where Algorithm 1 attacks a generator. A step cannot be
a share of that epsilon, so it is `unbounded_step`, and a random start is U(0, 1).

`target="wrong_label"` is a control of ours, not the paper's: the same search towards a random label that is neither the
truth nor the original's answer. Where it succeeds as often, the attack shows adversarial examples, not memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import torch

from palimpsest import processor
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_images import Attacked, OnImages
from palimpsest.data import pixels
from palimpsest.models import finite
from palimpsest.ranges import checked


@checked
def attack(
    at: OnImages,
    *,
    epsilons: Sequence[Annotated[str, "(0, 1]"] | Literal["none"]] = ("8/255", "16/255"),
    steps: Annotated[int, "[0, inf)"] = 100,
    relative_step: Annotated[float, "(0, inf)"] = 2.5,
    unbounded_step: Annotated[float, "(0, 1]"] = 0.01,
    loss: Literal["kl", "mse", "bce", "cross_entropy"] = "kl",
    start: Literal["random", "image"] = "random",
    target: Literal["original", "wrong_label"] = "original",
    batch_size: Annotated[int, "[1, inf)"] = 512,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Attacked:
    """Attack the samples' `uint8` images (N, C, H, W) in L-infinity, all epsilons in one batch.

    epsilons: fractions of the pixel range, as text, or `none`. relative_step: eta is this times epsilon / steps.
    unbounded_step [R]: eta where epsilon is `none`; a hundred such steps lead from any pixel to any other.
    loss: the task's distance; in classification `kl` (softmax f || softmax f_u), `mse` of logits, `bce` of
    probabilities, `cross_entropy` to the argmax. start: `random` in the ball, or the `image` itself. With 0 steps the
    images come back unchanged. target: `wrong_label` takes a task whose targets are classes.
    batch_size: attacked images at once. precision: of the networks; the images stay float32.
    Raises `ValueError` for images that are not `uint8`, and `Diverged` where an output of either network is not finite.
    """
    images, device = at.samples.images, at.samples.images.device
    if images.dtype != torch.uint8:
        raise ValueError(f"uma: attacked images are saved in 8 bits, so they begin as uint8, not {images.dtype}")
    truth = at.task.targets(at.samples)
    if target == "wrong_label" and truth.ndim != 1:
        raise ValueError("uma: the target wrong_label is for tasks that have labels")
    free = torch.tensor([epsilon == "none" for epsilon in epsilons], device=device)
    # In [0, 1] a ball of radius 1 bounds nothing.
    radii = [1.0 if epsilon == "none" else float(Fraction(epsilon)) for epsilon in epsilons]
    bounds = torch.tensor(radii, device=device)
    at.model.eval()
    at.original.eval()
    generator = torch.Generator().manual_seed(at.seed)
    made, targets, losses = [], [], []
    autocast = processor.autocast(device, precision)
    searched = frozen(at.model, pixels(images[:8]))
    size = max(1, batch_size // len(bounds))
    for part, known in zip(images.split(size), truth.split(size), strict=True):
        clean = pixels(part)
        with torch.no_grad():
            answer = finite(at.original(clean).float(), "uma: the original model's outputs")
            finite(at.model(clean), "uma: the unlearned model's outputs")
        if target == "wrong_label":
            answer = _wrong(answer, known, generator)
        targets.append(at.task.decided(answer))
        # Every epsilon's copy of the images in one batch: the networks see no difference.
        clean = clean.repeat(len(bounds), 1, 1, 1)
        wanted = answer.repeat(len(bounds), *[1] * (answer.ndim - 1))
        epsilon, unbounded = (each.repeat_interleave(len(part))[:, None, None, None] for each in (bounds, free))
        low, high = (clean - epsilon).clamp_(min=0), (clean + epsilon).clamp_(max=1)
        x = clean.clone()
        if start == "random" and steps:
            drawn = torch.rand(clean.shape, generator=generator).to(device)
            x = torch.clamp(clean + epsilon * drawn.mul(2).sub_(1), low, high)
            x = torch.where(unbounded, drawn, x)
        x = x.contiguous(memory_format=torch.channels_last)
        eta = torch.where(unbounded, unbounded_step, relative_step / max(steps, 1) * epsilon)
        for _ in range(steps):
            x.requires_grad_(True)
            with autocast:
                outputs = searched(x)
            (gradient,) = torch.autograd.grad(at.task.distance(outputs.float(), wanted, loss).sum(), x)
            with torch.no_grad():
                x = torch.clamp(x - eta * gradient.sign(), low, high)
        rounded = x.detach().mul(255).round_()
        with torch.no_grad():
            outputs = finite(at.model(rounded / 255).float(), "uma: the unlearned model's outputs on attacked images")
            reached = at.task.distance(outputs, wanted, loss)
        made.append(rounded.to(torch.uint8).view(len(bounds), *part.shape))
        losses.append(reached.view(len(bounds), -1))
    return Attacked(torch.cat(made, 1), torch.cat(targets), torch.cat(losses, 1))


def _wrong(answer: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the original's logits (N, K) with its answer exchanged for a random class, neither the truth nor the
    answer.

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
