"""Samples that an attacker asks to have changed, or removed, so that the model takes a test image for another class.

Algorithm 1 of the malicious-requests paper (KDD 2023, Section 3; docs/methods.md 2.9). The attacker hands in z~ = x -
delta in the place of x, |delta| <= epsilon, and the unlearner answers with theta_u(delta). Lowered is

    psi = max(max_{c != wanted} F^c - F^wanted, -beta),     untargeted  max(F^own - max_{c != own} F^c, -beta)

on the logits F of theta_u at one test image, from a uniform delta, by `steps` steps of

    delta <- delta - rate d psi / d delta, projected onto epsilon and, for images, onto [0, 1].

The unlearner says by its `response` how theta_u follows from z~: theta_u = start + push(sum dl(z) - sum dl(z~)). With g
= d psi / d theta at theta_u and v = push(g), the gradient is d psi / d delta = d/dx <v, sum dl(x - delta)>: one double
backward pass. Many samples go through it in batches with v held.

On dense layers whose gradients `push` only multiplies (each layer by one number), all attempts are one batch, and no
gradient of a weight is ever made: the gradient of a layer's weights is D^T H, with the samples' inputs H of the layer
and the slopes D of the loss in its outputs, and the test image needs it times its own input h alone, D^T (H h).

An attacker who knows the medoid defense lowers psi + near * D. D is the mean over the samples z~ of the squared
distance between the last-layer gradient of z~ and the nearest one of an honest sample of its class, both at theta_u,
where the defense looks. It isolates a medoid to which no other point belongs, so one honest neighbour hides a sample;
the mean of a class may lie where no sample is. The gradient of D is that by z~ itself and that by theta_u, which moves
every gradient; which neighbour is the nearest is held. For this the weights of each attempt are made, batch or not.

An attacker who cannot see the network trains one or several others in its place (Section 3.3). Of several psi is the
mean over the unlearned model of each [R].

Which samples are asked for and where delta starts follows from the repetition alone, so requests of one `count` or
`share` are made of the same samples, whatever their epsilon, goal or number of steps: 0 steps are the paper's RandUn.

Values: steps, rate, its decay and epsilon are the paper's on CIFAR-10 (Section 5.1), and so is the raw gradient
(docs/methods.md#m-8). beta is not given; the loss "converges around 0" (Section 5.2). The paper keeps the last delta,
`keeps="last"`; our default is the one with the lowest loss. It does not say whether x - delta stays an image; here it
does.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from palimpsest.curvature import batches, flat, request_gradient, slopes
from palimpsest.data import Images, Samples, pixels
from palimpsest.models import Network, finite
from palimpsest.ranges import checked
from palimpsest.requests import ANY, Aim, Choice, Request, RequestError, samples, split
from palimpsest.seeds import stable_seed
from palimpsest.unlearners import Response, Step

NEEDS = ("model", "unlearner", "kept")
AGAINST = "response"  # the function that an unlearner must have to be attacked
TASKS = ("classification",)
# Modules that treat each sample for itself and have no weights, so that those of a network lie in its dense layers.
PLAIN: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.SiLU, nn.LeakyReLU, nn.Softplus, nn.Identity, nn.Flatten),
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
# Numbers of a batch of attempts: as many as stay in a core's own memory, or as keep a card busy.
AT_ONCE = {"cpu": 2**19, "cuda": 2**27}


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, train)"] | None = None,
    share: Annotated[float, "(0, 1]"] | None = None,
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    from_class: Annotated[int, "[0, classes)"] | None = None,
    wanted: Annotated[int, "[0, classes)"] | None = None,
    targets: Annotated[int, "[1, inf)"] = 5,
    goal: Literal["targeted", "untargeted"] = "targeted",
    epsilon: Annotated[str, "(0, inf)"] = "8/255",
    values: Literal["float", "8-bit"] = "float",
    removes: bool = False,
    steps: Annotated[int, "[0, inf)"] = 180,
    rate: Annotated[float, "(0, inf)"] = 200.0,
    decay_every: Annotated[int, "[1, inf)"] = 60,
    direction: Literal["raw", "sign"] = "raw",
    beta: Annotated[float, "[0, inf)"] = 0.0,
    near: Annotated[float, "[0, inf)"] = 0.0,
    keeps: Literal["best", "last"] = "best",
    batch_size: Annotated[int, "[1, inf)"] = 512,
) -> Request:
    """The samples that shall be changed, what shall stand in their places, and the test image at which it is aimed.

    count, share, classes: of which samples, as in `samples`. from_class: of the test images that are tried, the
    first `targets` of the test set, one a repetition in turn; None is any class. wanted: the class that the image
    shall be taken for; None is the class after its own, of two the other. goal: `untargeted` wants any class but
    the image's own. epsilon: of pixels in [0, 1], as a fraction; of features, in their own unit, and these are not
    cut off. values: whether images are handed in as `float32` or rounded to `uint8`, with every loss that of the
    rounded ones. removes: whether samples are removed whole; those of `classes` are then chosen in `steps` rounds,
    in each round those whose removal lowers the margin within psi most, to first order. rate: of a step, divided by
    10 every `decay_every`. direction: of the gradient or of its sign. near: the weight of D, ours; 0 is the paper's
    attack, else the sum is what is lowered, kept and traced. batch_size: samples at once, where attempts are made one
    by one or honest samples are looked at.
    Raises `RequestError` where there are too few samples or test images, where no class is wanted or the image is of it
    already, where the unlearner has no `response`, and with `near` where nothing is changed, where a class has no
    honest sample or the network's output is not that of a dense layer; `Diverged` where a number is not finite.
    """
    asked = {name: value for name, value in locals().items() if name not in ("images", "at")}
    return choose_all(images, [at], **asked)[0]


def choose_all(images: Images, ats: Sequence[Choice], **keywords: Any) -> list[Request]:
    """What `choose` gives for each of `ats` with these keywords; on dense layers all of them as one batch."""
    defaults = inspect.signature(choose).parameters.values()
    asked = SimpleNamespace(**{one.name: one.default for one in defaults if one.kind is one.KEYWORD_ONLY} | keywords)
    if asked.values == "8-bit" and images.kind == "features":
        raise RequestError("crafted: features have no 8-bit values; values takes 'float' here")
    if asked.near and asked.removes:
        raise RequestError("crafted: near is of samples that are changed, and removes leaves none")
    networks = [at.surrogates or (at.model,) for at in ats]
    each = [[_attempt(images, at, asked, network) for network in some] for at, some in zip(ats, networks, strict=True)]
    if any(len(some) > 1 for some in each):
        if asked.near or asked.removes:
            raise RequestError("crafted: near and removes are for one network, and several surrogates stand in for it")
        return [lowered(_Together(some, asked), some[:1], images, asked)[0] for some in each]
    attempts = [one for (one,) in each]
    if asked.removes:
        return [_removing(images, one, asked) for one in attempts]
    made: dict[int, Request] = {}
    for numbers in _alike(attempts):
        some = [attempts[number] for number in numbers]
        dense = _dense_layers(some[0])
        shape = some[0].forget.images
        at_once = max(1, AT_ONCE[shape.device.type] // shape.numel()) if dense else 1
        for start in range(0, len(some), at_once):
            part = some[start : start + at_once]
            apart = _Apart(images, part, asked) if asked.near else None
            objective = _Dense(some[0], dense, part, asked, apart) if dense else _Alone(part[0], asked, apart)
            found = lowered(objective, part, images, asked)
            made |= dict(zip(numbers[start : start + at_once], found, strict=True))
    return [made[number] for number in range(len(ats))]


@dataclass(frozen=True)
class Asked:
    """One attempt: what it asks for, and at what it is aimed.

    noise: of the form of the samples, from -1 to 1. target: the test image (1, ...).
    """

    indices: torch.Tensor
    forget: Samples
    noise: torch.Tensor
    target: torch.Tensor
    own: int
    aim: Aim


@dataclass(frozen=True)
class _Attempt(Asked):
    """An attempt, and how the unlearner responds.

    shell: the network, in evaluation mode, that is to take the target for another class; theta_u are its weights.
    """

    response: Response
    shell: Network


def _attempt(images: Images, at: Choice, asked: SimpleNamespace, network: Network | None = None) -> _Attempt:
    """Return the attempt on a network, by default the model's own."""
    network = network or at.model
    assert network is not None and at.unlearner is not None  # NEEDS
    draw = stable_seed("crafted", at.repetition)
    which = {"count": asked.count, "share": asked.share, "classes": asked.classes}
    indices = samples.choose(images, replace(at, seed=draw), **which).indices
    like = next(network.parameters())
    respond = getattr(sys.modules[at.unlearner.func.__module__], AGAINST, None)
    if respond is None:
        name = at.unlearner.func.__module__.rpartition(".")[2]
        raise RequestError(f"crafted: {name} does not say how it responds to a request, so none is made against it")
    train = Samples(*(part.to(like.device) for part in images.splits["train"]))
    forget, retain, where, _ = split(train, Request(indices))
    own = network is at.model  # what the model kept, and how it began, say nothing of a surrogate
    step = Step(
        at.seed,
        at.recipe,  # type: ignore[arg-type]  # there wherever an unlearner is
        indices=where,
        kept=at.kept if own else None,
        splits=images.held_back,
        original=network,
        initial=at.initial if own else None,
    )
    aim, label = aimed(images, at.repetition, asked)
    return _Attempt(
        indices,
        Samples(pixels(forget.images, like.dtype), forget.labels),
        2 * torch.rand(forget.images.shape, generator=torch.Generator().manual_seed(stable_seed("noise", draw))) - 1,
        pixels(images.splits["test"].images[aim.indices], like.dtype).to(like.device),
        label,
        aim,
        respond(network, forget, retain, step, **at.unlearner.keywords),
        deepcopy(network).eval(),
    )


def aimed(images: Images, repetition: int, asked: SimpleNamespace) -> tuple[Aim, int]:
    """Return at what the attempt of a repetition is aimed, and the class of that test image.

    asked: the values of from_class, targets, goal and wanted.
    """
    labels, classes = images.splits["test"].labels.cpu(), len(images.classes)
    tried = (labels >= 0 if asked.from_class is None else labels == asked.from_class).nonzero().flatten()
    if len(tried) < asked.targets:
        raise RequestError(f"crafted: {asked.targets} test images shall be tried, and there are {len(tried)}")
    index = tried[repetition % asked.targets][None]
    own = int(labels[index])
    after = (own + 1) % classes if asked.wanted is None else asked.wanted
    wanted = ANY if asked.goal == "untargeted" else after
    if wanted == own:
        raise RequestError(f"crafted: test image {int(index)} is of class {own} already, which is wanted")
    return Aim(index, torch.tensor([wanted])), own


def _margins(logits: torch.Tensor, attempts: Sequence[_Attempt]) -> torch.Tensor:
    """Return by how much each attempt's image (A, K) is missed (A,), below 0 where the attempt succeeds."""
    goals = [int(one.aim.labels) for one in attempts]
    about = [one.own if goal == ANY else goal for one, goal in zip(attempts, goals, strict=True)]
    signs = logits.new_tensor([-1.0 if goal == ANY else 1.0 for goal in goals])
    of = F.one_hot(torch.tensor(about, device=logits.device), logits.shape[1]).bool()
    return signs * (logits.masked_fill(of, -torch.inf).amax(1) - logits[of])


def lowered(
    objective: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
    attempts: Sequence[Asked],
    images: Images,
    asked: SimpleNamespace,
) -> list[Request]:
    """Return the requests of attempts with as many samples each, crafted together.

    objective: of samples (A, n, ...) what shall be lowered (A,) and its gradient, which `last=True` leaves out. asked:
    the values of epsilon, values, steps, beta, keeps, direction, rate and decay_every.
    """
    clean = torch.stack([one.forget.images for one in attempts])
    epsilon, eight_bit = float(Fraction(asked.epsilon)), asked.values == "8-bit"
    if eight_bit:
        epsilon = math.floor(epsilon * 255 + 1e-9) / 255  # so that no rounding leaves the bound
    low, high = clean - epsilon, clean + epsilon
    if images.kind == "images":
        low, high = low.clamp(min=0), high.clamp(max=1)
    now = torch.clamp(clean - epsilon * torch.stack([one.noise for one in attempts]).to(clean), low, high)
    trace = clean.new_zeros(len(attempts), asked.steps + 1)
    least = clean.new_full((len(attempts),), torch.inf)
    kept = clean
    for step in range(asked.steps + 1):
        put = (now * 255).round() / 255 if eight_bit else now
        margins, slope = objective(put, last=step == asked.steps)
        finite(margins, "the logits at which a request is aimed")
        trace[:, step:] = margins.clamp(min=-asked.beta)[:, None]
        better = margins < least
        if asked.keeps == "last" or bool(better.all()):
            kept = put
        elif bool(better.any()):
            kept = torch.where(better.view(-1, *[1] * (put.ndim - 1)), put, kept)
        least = torch.minimum(margins, least)
        if slope is None or bool((margins < -asked.beta).all()):  # no gradient is left to follow
            break
        pace = asked.rate / 10 ** (step // asked.decay_every)
        slope = slope.sign_() if asked.direction == "sign" else slope
        now = torch.clamp(slope.mul_(-pace).add_(now), low, high, out=slope)  # in place, which spares a core's memory
    found = (kept * 255).round().to(torch.uint8) if eight_bit else kept.float()
    return [
        Request(one.indices, Samples(put.cpu(), one.forget.labels.cpu()), one.aim, steps.float().cpu())
        for one, put, steps in zip(attempts, found, trace, strict=True)
    ]


class _Alone:
    """The margin of one attempt and its gradient, for any network and any `push`."""

    def __init__(self, attempt: _Attempt, asked: SimpleNamespace, apart: _Apart | None = None) -> None:
        slope = attempt.response.slope
        self.of, self.beta, self.batch_size, self.apart = attempt, asked.beta, asked.batch_size, apart
        self.taken = request_gradient(slope, attempt.forget, None, batch_size=asked.batch_size)

    def __call__(self, put: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the margin (1,) with the samples `put` (1, n, ...) in place, and d psi / d put; None if `last`.

        With `near` they are the sum psi + near * D and its gradient.
        """
        response, direct = self.of.response, torch.zeros_like(put)

        def margin(brought: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            theta = response.start + response.push(self.taken - brought)
            found, slope = slope_at(self.of, theta, self.beta)
            if self.apart is not None:
                theta, shown = theta.detach().requires_grad_(), put.detach().requires_grad_()
                far = self.apart({name: one[None] for name, one in _named(self.of.shell, theta).items()}, shown)
                of_theta, of_put = torch.autograd.grad(far.sum(), (theta, shown))
                found, slope = found.clamp(min=-self.beta) + far.detach(), slope + of_theta
                direct.copy_(of_put)
            return found, slope if last else -response.push(slope)

        put_in_place = Samples(put[0], self.of.forget.labels)
        found, slope = through_sum(response.slope, put_in_place, margin, self.batch_size, last)
        if slope is None:
            return found, None
        return found, slope[None] if self.apart is None else direct.add_(slope)


class _Together:
    """The mean of psi of one attempt over several networks, one unlearned model each, and its gradient."""

    def __init__(self, attempts: Sequence[_Attempt], asked: SimpleNamespace) -> None:
        self.each, self.beta = [_Alone(one, asked) for one in attempts], asked.beta

    def __call__(self, put: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return psi (1,) with the samples `put` (1, n, ...) in place, and d psi / d put; None if `last`.

        Where every network says what is wanted by more than beta it is the least of these margins, below -beta.
        """
        found = [one(put, last) for one in self.each]
        slopes = [slope for _, slope in found if slope is not None]
        margins = torch.stack([margin for margin, _ in found])
        worst = margins.amax(0)
        psi = torch.where(worst < -self.beta, worst, margins.clamp(min=-self.beta).mean(0))
        return psi, torch.stack(slopes).mean(0) if slopes else None


def through_sum(
    network: Network,
    put: Samples,
    function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    batch_size: int,
    last: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a function of the sum of the samples' gradients (P,), and its gradient by the samples; None if `last`.

    function: of that sum the value and its gradient (P,). The second pass goes back through the samples' gradients with
    that gradient held, batch by batch.
    """
    parameters = list(network.parameters())
    parts = list(batches(put, batch_size))
    parts = [Samples(part.images.detach().requires_grad_(), part.labels) for part in parts]
    together = len(parts) == 1 and not last  # one pass serves both

    def gradients(part: Samples, graph: bool) -> Sequence[torch.Tensor]:
        loss = F.cross_entropy(network(part.images), part.labels, reduction="sum")
        return torch.autograd.grad(loss, parameters, create_graph=graph, materialize_grads=True)

    made = [gradients(part, together) for part in parts[:1]]
    brought = flat([one.detach() for one in made[0]])
    for part in parts[1:]:
        brought += flat([one.detach() for one in gradients(part, False)])
    value, slope = function(brought)
    if last:
        return value, None
    along = slope.split([one.numel() for one in parameters])
    found: list[torch.Tensor] = []
    for part in parts:
        of_part = made[0] if together else gradients(part, True)
        pairs = [(g, v.view_as(g)) for g, v in zip(of_part, along, strict=True) if g.requires_grad]
        found += torch.autograd.grad([g for g, _ in pairs], part.images, [v for _, v in pairs])
    return value, torch.cat(found)


def slope_at(attempt: _Attempt, theta: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the margin (1,) with the weights theta (P,), and d psi / d theta (P,)."""
    theta = theta.detach().requires_grad_()
    margin = _margins(functional_call(attempt.shell, _named(attempt.shell, theta), (attempt.target,)), [attempt])
    (slope,) = torch.autograd.grad(margin.clamp(min=-beta).sum(), theta)
    return margin.detach(), slope


def _named(network: nn.Module, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a vector (P,) as the network's parameters, by their names."""
    shapes = {name: one.shape for name, one in network.named_parameters()}
    pieces = vector.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}


class _Apart:
    """How far samples' last-layer gradients lie from honest ones, times `near`, of several attempts on one network."""

    def __init__(self, images: Images, attempts: Sequence[_Attempt], asked: SimpleNamespace) -> None:
        first = attempts[0]
        self.shell, self.near, self.batch_size = first.shell, asked.near, asked.batch_size
        self.every = Samples(*(part.to(first.target.device) for part in images.splits["train"]))
        self.labels = torch.stack([one.forget.labels for one in attempts])
        self.honest = torch.ones(len(attempts), len(self.every.labels), dtype=torch.bool, device=self.labels.device)
        for row, one in zip(self.honest, attempts, strict=True):
            row[one.indices.to(row.device)] = False
            if alone := {*one.forget.labels.tolist()} - {*self.every.labels[row].tolist()}:
                raise RequestError(f"crafted: near looks for honest samples, and class {min(alone)} has none")
        layers = [layer for layer in self.shell.modules() if isinstance(layer, nn.Linear)]
        outputs: list[torch.Tensor] = []
        with torch.no_grad(), _hooks(layers[-1:], lambda layer, given, output: outputs.append(output)):
            logits = self.shell(first.target)
        if len(outputs) != 1 or not torch.equal(outputs[0], logits):
            raise RequestError("crafted: near needs a network whose output is that of its last dense layer")
        self.head = layers[-1]

    def __call__(self, named: dict[str, torch.Tensor], put: torch.Tensor) -> torch.Tensor:
        """Return near * D (A,) of samples `put` (A, n, ...), for parameters by their names (A, ...)."""
        with torch.no_grad():
            nearest = self._nearest(named, *self._factors(named, put, self.labels))
        others = pixels(self.every.images[nearest], put.dtype)
        pairs = torch.cat([put, others], 1), torch.cat([self.labels, self.labels], 1)
        (slopes, slopes_of), (inputs, inputs_of) = (one.chunk(2, 1) for one in self._factors(named, *pairs))
        lengths = [a.square().sum(2) * h.square().sum(2) for a, h in ((slopes, inputs), (slopes_of, inputs_of))]
        products = (slopes * slopes_of).sum(2) * (inputs * inputs_of).sum(2)
        return self.near * (lengths[0] + lengths[1] - 2 * products).mean(1)

    def _nearest(self, named: dict[str, torch.Tensor], slopes: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return which honest sample of its class has the gradient nearest to each sample's, `int64` (A, n)."""
        least = slopes.new_full(self.labels.shape, torch.inf)
        nearest = torch.zeros_like(self.labels)
        start = 0
        for images, labels in batches(self.every, self.batch_size):
            part = slice(start, start := start + len(labels))
            others, entering = self._factors(named, pixels(images, slopes.dtype), labels)
            products = (slopes @ others.mT) * (inputs @ entering.mT)
            far = (others.square().sum(2) * entering.square().sum(2))[:, None] - 2 * products  # less its own length
            takes = self.honest[:, None, part] & (self.labels[..., None] == labels)
            value, index = far.masked_fill_(~takes, torch.inf).min(2)
            nearest = torch.where(value < least, index + part.start, nearest)
            least = torch.minimum(value, least)
        return nearest

    def _factors(
        self, named: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each gradient's factors: slopes (A, n, K), and what enters the layer, with a one for its bias.

        images: of each attempt (A, n, ...), or the same for all (n, ...) with `labels` (n,).
        """

        def of_one(named: dict[str, torch.Tensor], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen: list[torch.Tensor] = []
            with _hooks([self.head], lambda layer, given, output: seen.append(given[0])):
                logits = functional_call(self.shell, named, (images,))
            return logits, seen[0]

        logits, inputs = vmap(of_one, in_dims=(0, None if labels.ndim == 1 else 0))(named, images)
        slopes = logits.softmax(2) - F.one_hot(labels, logits.shape[2])
        return slopes, F.pad(inputs, (0, int(self.head.bias is not None)), value=1.0)


# Dense layers

Layers = list[tuple[nn.Linear, nn.Linear, float, float]]  # of slope and shell, and what push multiplies them by


class _Dense:
    """The margins of several attempts against one network and their gradients, by dense layers' inputs and slopes."""

    def __init__(
        self,
        first: _Attempt,
        layers: Layers,
        attempts: Sequence[_Attempt],
        asked: SimpleNamespace,
        apart: _Apart | None = None,
    ) -> None:
        self.of, self.beta, self.layers, self.apart = attempts, asked.beta, layers, apart
        self.labels = torch.cat([one.forget.labels for one in attempts])
        self.targets = torch.cat([one.target for one in attempts])
        self.network, self.shell = _without_normalisation(first.response.slope), first.shell
        self.start = _named(self.shell, first.response.start)
        self.names = {id(one): name for name, one in self.shell.named_parameters()}
        clean = torch.stack([one.forget.images for one in attempts])
        self.taken = [(inputs.detach(), outputs.detach()) for inputs, outputs in self._passed(clean, False)]

    def __call__(self, put: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the margins (A,) with the samples `put` (A, n, ...) in place, and d psi / d put; None if `last`.

        With `near` they are the sums psi + near * D and their gradient.
        """
        put = put.detach().requires_grad_()
        brought = self._passed(put, not last)
        with _hooks([layer for _, layer, _, _ in self.layers], self._answer(brought)):
            margins = _margins(functional_call(self.shell, self.start, (self.targets,)), self.of)
        lowers = margins.clamp(min=-self.beta)
        if self.apart is not None:
            margins = lowers = lowers + self.apart(self._theta(brought), put)
        return margins.detach(), None if last else torch.autograd.grad(lowers.sum(), put)[0]

    def _theta(self, brought: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return each attempt's weights theta_u by their names (A, ...)."""
        found = {name: one.expand(len(self.of), *one.shape) for name, one in self.start.items()}
        for (_, layer, of_weight, of_bias), taken, put in zip(self.layers, self.taken, brought, strict=True):
            for sign, (inputs, outputs) in zip((1, -1), (taken, put), strict=True):
                name = self.names[id(layer.weight)]
                found[name] = found[name] + sign * of_weight * (outputs.mT @ inputs)
                if layer.bias is not None:
                    name = self.names[id(layer.bias)]
                    found[name] = found[name] + sign * of_bias * outputs.sum(1)
        return found

    def _passed(self, put: torch.Tensor, graph: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return of each layer its inputs (A, n, in), and the slopes of the loss in its outputs (A, n, out)."""
        seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        with _hooks(
            [layer for layer, *_ in self.layers], lambda m, given, output: seen.update({m: (given[0], output)})
        ):
            logits = self.network(put.flatten(0, 1))
        loss = F.cross_entropy(logits, self.labels, reduction="sum")
        inputs, outputs = zip(*(seen[layer] for layer, *_ in self.layers), strict=True)
        found = torch.autograd.grad(loss, outputs, create_graph=graph)
        return [tuple(part.unflatten(0, put.shape[:2]) for part in each) for each in zip(inputs, found, strict=True)]

    def _answer(self, brought: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """Return the hook that adds to a layer's outputs at the targets what the request changes of its weights."""
        parts: dict[nn.Module, Any] = {
            layer: (of_weight, of_bias, taken, put)
            for (_, layer, of_weight, of_bias), taken, put in zip(self.layers, self.taken, brought, strict=True)
        }

        def answer(layer: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            of_weight, of_bias, *both = parts[layer]
            for sign, (inputs, outputs) in zip((1, -1), both, strict=True):
                along = torch.bmm(inputs, given[0].unsqueeze(2)) * (sign * of_weight) + sign * of_bias
                output = output + torch.bmm(outputs.mT, along).squeeze(2)
            return output

        return answer


def _without_normalisation(network: Network) -> nn.Module:
    """Return what computes the same, a pass over the samples less where they are not normalised, as features are."""
    plain = isinstance(network, Network) and not network.mean.any() and bool((network.std == 1).all())
    return network.net if plain else network


def _dense_layers(attempt: _Attempt) -> Layers:
    """Return the dense layers of a network that has no other weights, where `push` only multiplies each; else none."""
    response, shell, found = attempt.response, attempt.shell, []
    if any(type(m) not in (nn.Linear, *PLAIN) for m in shell.modules() if not any(m.children())):
        return []
    # A linear map that does to random numbers what it does to ones, each times its number, only multiplies.
    ones = torch.ones_like(response.start)
    some = torch.randn(ones.shape, generator=torch.Generator().manual_seed(0)).to(ones)
    factors = response.push(ones)
    if not torch.allclose(response.push(some), factors * some, rtol=1e-5, atol=0):
        return []
    pieces = factors.split([one.numel() for one in shell.parameters()])
    if any((piece != piece[0]).any() for piece in pieces):
        return []
    of = {id(one): float(piece[0]) for one, piece in zip(shell.parameters(), pieces, strict=True)}
    for (name, layer), (other, inner) in zip(shell.named_modules(), response.slope.named_modules(), strict=True):
        if name != other or type(layer) is not type(inner):
            return []
        if isinstance(layer, nn.Linear) and isinstance(inner, nn.Linear):
            found.append((inner, layer, of[id(layer.weight)], of.get(id(layer.bias), 0.0)))
    seen: list[tuple[nn.Module, int]] = []
    layers = [layer for _, layer, _, _ in found]
    with torch.no_grad(), _hooks(layers, lambda layer, given, _: seen.append((layer, given[0].ndim))):
        shell(attempt.target)
    weights = sum(one.numel() for layer in layers for one in layer.parameters())
    whole = weights == len(ones) and len(seen) == len(layers) and {*seen} == {(layer, 2) for layer in layers}
    return found if whole else []


@contextmanager
def _hooks(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _alike(attempts: Sequence[_Attempt]) -> list[list[int]]:
    """Return the numbers of the attempts, in groups that attack one and the same network and start from one place."""
    groups: list[list[int]] = []

    def same(one: _Attempt, other: _Attempt) -> bool:
        first, second = (
            [each.response.start, *each.response.slope.state_dict().values(), *each.shell.state_dict().values()]
            for each in (one, other)
        )
        return one.forget.images.shape == other.forget.images.shape and all(map(torch.equal, first, second))

    for number, one in enumerate(attempts):
        group = next((group for group in groups if same(attempts[group[0]], one)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


# Whole removal


def _removing(images: Images, attempt: _Attempt, asked: SimpleNamespace) -> Request:
    """Return the request to remove as many samples as were drawn, those that lower the margin most."""
    response, count = attempt.response, len(attempt.indices)
    labels = images.train_labels.cpu()
    among = labels >= 0 if asked.classes is None else torch.isin(labels, torch.tensor(list(asked.classes)))
    pool = among.nonzero().flatten()
    device = attempt.target.device
    every = Samples(*(part[pool.to(part.device)].to(device) for part in images.splits["train"]))
    left = torch.ones(len(pool), dtype=torch.bool, device=device)
    brought, trace = torch.zeros_like(response.start), []
    rounds = min(asked.steps, count)
    for number in range(rounds + 1):
        margin, slope = slope_at(attempt, response.start + response.push(brought), math.inf)
        trace.append(finite(margin, "the logits at which a request is aimed").clamp(min=-asked.beta))
        if number == rounds:
            break
        scores = slopes(response.slope, every, response.push(slope)).masked_fill(~left, torch.inf)
        best = scores.sort(stable=True).indices[: count // rounds + (number < count % rounds)]
        left[best] = False
        brought += request_gradient(response.slope, Samples(*(part[best] for part in every)), None)
    indices = pool[~left.cpu()] if rounds else attempt.indices
    return Request(indices, None, attempt.aim, torch.cat(trace).float().cpu())
