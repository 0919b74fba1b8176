"""UMA, the Unlearning Mapping Attack: inputs near the forgotten images that give the original model's answers back.

    argmin_{delta_x} L(f_u(delta_x; theta_u), f(x; theta)),   delta <- clip(delta - eta * sign(grad L), 0, 1)

(Sections 4.2 and 4.3, eq. 2-4, Algorithm 1). It is projected gradient descent of Madry et al. towards the original
model's output f(x). The paper never states the number of steps, eta, the loss, and the projection to the epsilon-ball
that its Proposition 3 requires for classifiers. We decided (docs/methods.md 2.7): 100 steps, eta = 2.5 epsilon / steps,
KL divergence, start at x + U(-epsilon, epsilon), projection to the epsilon-ball and to [0, 1] after every step, and
both models in evaluation mode. What is returned is rounded to 8 bits, since an image that cannot be saved attacks
nobody. The clean image lies on the grid of grey levels, so the rounded image stays within epsilon when epsilon is a
whole number of levels.

Algorithm 1 keeps the last iterate (`variant="as_published"`). A sign step does not lower the loss every time, so the
loss may then rise with epsilon, although a smaller ball lies in the larger one (docs/methods.md#u-7b). By default each
image's best iterate is kept, by the loss of the rounded image, at which the gradient is taken too; the clean image
counts as one. And in a larger ball the first search starts from the result of the next smaller one, not at random, and
that result counts as well. So the loss cannot rise with epsilon.

An epsilon may be `none`: then only [0, 1] bounds the image, as where Algorithm 1 attacks a generator. A step cannot be
a share of that epsilon, so it is `unbounded_step`, and a random start is U(0, 1); beside a smaller epsilon the first
search starts from that one's result, as in any larger ball.

Where the model answers every image of a batch as is wanted already, as the original does that is attacked towards its
own answers, nothing is searched.

`target="wrong_label"` is a control of ours, not the paper's: the same search towards a random label that is neither the
truth nor the original's answer. Where it succeeds as often, the attack shows adversarial examples, not memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch

from palimpsest import processor
from palimpsest.attacks._frozen import frozen
from palimpsest.attacks.on_images import Attacked, OnImages
from palimpsest.data import pixels
from palimpsest.models import asked, finite
from palimpsest.ranges import checked


@checked
def attack(
    at: OnImages,
    *,
    epsilons: Sequence[Annotated[str, "(0, 1]"] | Literal["none"]] = ("8/255", "16/255"),
    steps: Annotated[int, "[0, inf)"] = 100,
    times: Annotated[float, "(0, inf)"] = 1.0,
    restarts: Annotated[int, "[1, inf)"] = 1,
    relative_step: Annotated[float, "(0, inf)"] = 2.5,
    unbounded_step: Annotated[float, "(0, 1]"] = 0.01,
    loss: Literal["kl", "mse", "bce", "cross_entropy"] = "kl",
    start: Literal["random", "image"] = "random",
    target: Literal["original", "wrong_label"] = "original",
    variant: Literal["corrected", "as_published"] = "corrected",
    batch_size: Annotated[int, "[1, inf)"] = 512,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Attacked:
    """Attack the samples' `uint8` images (N, C, H, W) in L-infinity, all epsilons in one batch.

    epsilons: fractions of the pixel range, as text, or `none`. times: a search makes this many times `steps` steps, to
    study convergence at whatever `steps` a scale has. restarts: searches of each image, of which the one with the
    lowest loss counts. relative_step: eta is this times epsilon / steps. unbounded_step [R]: eta where epsilon is
    `none`; a hundred such steps lead from any pixel to any other.
    loss: the task's distance; in classification `kl` (softmax f || softmax f_u), `mse` of logits, `bce` of
    probabilities, `cross_entropy` to the argmax. start: `random` in the ball, or the `image` itself. With 0 steps the
    images come back unchanged. target: `wrong_label` takes a task whose targets are classes. variant: see the module.
    batch_size: attacked images at once. precision: of the networks; the images stay float32.
    Raises `ValueError` for images that are not `uint8`, and `Diverged` where an output of either network is not finite.
    """
    images, device = at.samples.images, at.samples.images.device
    if images.dtype != torch.uint8:
        raise ValueError(f"uma: attacked images are saved in 8 bits, so they begin as uint8, not {images.dtype}")
    truth = at.task.targets(at.samples)
    if target == "wrong_label" and truth.ndim != 1:
        raise ValueError("uma: the target wrong_label is for tasks that have labels")
    steps, last = round(times * steps), variant == "as_published"
    free = torch.tensor([epsilon == "none" for epsilon in epsilons], device=device)
    # In [0, 1] a ball of radius 1 bounds nothing.
    radii = [1.0 if epsilon == "none" else float(Fraction(epsilon)) for epsilon in epsilons]
    bounds, outwards = torch.tensor(radii, device=device), sorted(range(len(radii)), key=radii.__getitem__)
    at.model.eval()
    at.original.eval()
    generator = torch.Generator().manual_seed(at.seed)
    made, targets, losses = [], [], []
    autocast = processor.autocast(device, precision)
    copy = frozen(at.model, pixels(images[:8]))

    def searched(x: torch.Tensor, ball: _Ball) -> torch.Tensor:
        with autocast:
            outputs = asked(copy, x, ball.clean)
        return at.task.distance(outputs.float(), ball.wanted, loss)

    def reached(levels: torch.Tensor, ball: _Ball) -> torch.Tensor:
        with torch.no_grad():
            outputs = asked(at.model, levels / 255, ball.clean).float()
        finite(outputs, "uma: the unlearned model's outputs on attacked images")
        return at.task.distance(outputs, ball.wanted, loss)

    size = max(1, batch_size // len(bounds))
    for part, known in zip(images.split(size), truth.split(size), strict=True):
        clean = pixels(part)
        with torch.no_grad():
            answer = finite(at.original(clean).float(), "uma: the original model's outputs")
            unmoved = finite(at.model(clean).float(), "uma: the unlearned model's outputs")
        if target == "wrong_label":
            answer = _wrong(answer, known, generator)
        targets.append(at.task.decided(answer))
        least = at.task.distance(unmoved, answer, loss)
        if not last and not bool(least.any()):
            made.append(part.expand(len(bounds), *part.shape))
            losses.append(answer.new_zeros(len(bounds), len(part)))
            continue
        # Every epsilon's copy of the images in one batch: the networks see no difference.
        least = least.repeat(len(bounds))
        clean = clean.repeat(len(bounds), 1, 1, 1)
        wanted = answer.repeat(len(bounds), *[1] * (answer.ndim - 1))
        epsilon, unbounded = (each.repeat_interleave(len(part))[:, None, None, None] for each in (bounds, free))
        low, high = (clean - epsilon).clamp_(min=0), (clean + epsilon).clamp_(max=1)
        eta = torch.where(unbounded, unbounded_step, relative_step / max(steps, 1) * epsilon)
        ball = _Ball(low, high, eta, wanted, clean)
        best, least = _levels(clean), torch.full_like(least, torch.inf) if last else least
        every = [slice(index * len(part), (index + 1) * len(part)) for index in outwards]
        for restart in range(restarts):
            x = clean.clone()
            if start == "random" and steps:
                drawn = torch.rand(clean.shape, generator=generator).to(device)
                x = torch.clamp(clean + epsilon * drawn.mul(2).sub_(1), low, high)
                x = torch.where(unbounded, drawn, x)
            nested = restart == 0 and not last
            for place, rows in enumerate(every if nested else [slice(None)]):
                begun = best[every[place - 1]] / 255 if place else x[rows]
                within = ball.of(rows)
                found = _search(searched, begun, within, steps, last)
                best[rows], least[rows] = _lower(best[rows], least[rows], found, reached(found, within))
        for inner, outer in pairwise(every) if not last else ():
            best[outer], least[outer] = _lower(best[inner], least[inner], best[outer], least[outer])
        made.append(best.to(torch.uint8).view(len(bounds), *part.shape))
        losses.append(least.view(len(bounds), -1))
    return Attacked(torch.cat(made, 1), torch.cat(targets), torch.cat(losses, 1))


class _Ball(NamedTuple):
    """Where each of some images is searched, (B, C, H, W): its bounds, its step eta, the answer that is wanted, and the
    image itself.
    """

    low: torch.Tensor
    high: torch.Tensor
    eta: torch.Tensor
    wanted: torch.Tensor
    clean: torch.Tensor

    def of(self, rows: slice) -> _Ball:
        return _Ball(*(each[rows] for each in self))


def _search(
    loss: Callable[[torch.Tensor, _Ball], torch.Tensor], x: torch.Tensor, ball: _Ball, steps: int, last: bool
) -> torch.Tensor:
    """Descend from x (B, C, H, W) in [0, 1]; return each image's best iterate, or its last, rounded to grey levels.

    loss: of images in a ball, (B,). The best iterate is that of the lowest loss after rounding.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    best, least, total = _levels(x), x.new_full((len(x),), torch.inf), x.new_zeros(())
    for _ in range(steps):
        shown = (x if last else _levels(x) / 255).requires_grad_(True)
        losses = loss(shown, ball)
        (gradient,) = torch.autograd.grad(losses.sum(), shown)
        with torch.no_grad():
            if not last:
                best, least = _lower(best, least, _levels(x), losses.detach())
                total += losses.detach().sum()
            x = torch.clamp(x - ball.eta * gradient.sign(), ball.low, ball.high)
    if last or not steps:
        return _levels(x)
    with torch.no_grad():
        losses = loss(_levels(x) / 255, ball)
    finite(total + losses.sum(), "uma: the losses on attacked images")  # asked once, so that a card need not wait
    return _lower(best, least, _levels(x), losses)[0]


def _lower(
    best: torch.Tensor, least: torch.Tensor, other: torch.Tensor, reached: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return of two versions of some images the one with the lower loss (B,), and this loss; the second of equals."""
    better = reached <= least
    return torch.where(better[:, None, None, None], other, best), torch.where(better, reached, least)


def _levels(x: torch.Tensor) -> torch.Tensor:
    """Return images in [0, 1] as the nearest grey levels, 0 to 255, still in floats."""
    return x.detach().mul(255).round_()


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
