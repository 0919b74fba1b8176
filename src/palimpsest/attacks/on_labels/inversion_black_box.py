"""Black-box inversion of the label-leakage paper: a genetic algorithm breeds, for each class, an input for its answer.

    x* = argmax_{x in [0, 1]^d} f_k(x),   fitness(x) = f_k(x), the softmax probability of class k       (eq. 22, 23)

For every class (Section IV-C3) it begins with a population uniform in [0, 1]^d. In each generation the fittest
individuals, the elites, move on as they are, and children take the other places. A child has two parents drawn with
probability in proportion to fitness. It takes the genes of the first up to a random point and those of the second from
there on (eq. 24); then one random gene is changed by a random amount and projected to [0, 1] (eq. 25). The amount
shrinks by a factor in each generation (eq. 26). The inverted prediction vector is the network's answer to the fittest
individual of the last generation.

The paper's text lacks population, generations, elites, strength and decay, how the amount is distributed and whether
the search is begun again. We decided (docs/methods.md 2.8): 100, 200, 5, 1.0 and 0.99, uniform in [-strength,
strength], one beginning. `selection` has two other readings of a choice "according to a probability distribution":
by rank, and even. Parents are drawn with
replacement, so an individual can be both. In a population without any fitness, which happens where a probability
underflows, they are drawn evenly. The point of crossing leaves each parent at least one gene.

The attacker knows what a client of the model's interface knows: `attack` takes a function from images to probabilities,
their shape and the number of classes, and no network. All classes are bred side by side and send one batch of queries
in each generation. An elite's fitness is remembered, so a class costs population + generations * (population - elites)
queries. Each class has its own stream of random numbers, so its result does not depend on the other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import prod
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn

from palimpsest.attacks.on_labels import Found, Judgement, Judging, OnLabels, _screening
from palimpsest.models import finite
from palimpsest.ranges import checked
from palimpsest.seeds import stable_seed

TASKS = ("classification",)

Query = Callable[[torch.Tensor], torch.Tensor]


class Bred(NamedTuple):
    """What the attack made, one row for each class that was aimed at.

    images: float32 (T, C, H, W) in [0, 1], the fittest of the last generation. probabilities: float32 (T, K), their
    prediction vectors. history: float32 (generations + 1, T), the best fitness of each generation, including the first.
    queries: how many images the model was queried with, for all classes together.
    """

    images: torch.Tensor
    probabilities: torch.Tensor
    history: torch.Tensor
    queries: int


@checked
def attack(
    at: OnLabels[Query],
    *,
    targets: Sequence[Annotated[int, "[0, inf)"]] | None = None,
    population: Annotated[int, "[1, inf)"] = 100,
    generations: Annotated[int, "[0, inf)"] = 200,
    elites: Annotated[int, "[0, inf)"] = 5,
    strength: Annotated[float, "[0, inf)"] = 1.0,
    decay: Annotated[float, "(0, 1]"] = 0.99,
    selection: Literal["proportional", "rank", "even"] = "proportional",
    restarts: Annotated[int, "[1, inf)"] = 1,
) -> Bred:
    """Invert the model behind the server, images (N, *shape) in [0, 1], float32, to probabilities (N, classes).

    The images are bred on the context's device. targets: the classes to invert, all by default. population [R]:
    individuals of a class. generations [R]: after the first. elites [R]: individuals that move on, fewer than the
    population; the best fitness then never falls, with 0 it may. strength, decay [R]: a gene changes by U(-s, s) with
    s = strength * decay ** generation, in units of the pixel range. selection: by what parents are drawn: their
    fitness [P], their rank, or evenly. restarts [R]: searches of a class, of which the fittest end counts.
    Raises `ValueError` for a class that is not there, a population with no place for a child, images of one gene, or
    answers that are not probabilities of that many classes; `Diverged` where an answer is not finite.
    """
    query, shape, classes, seed, device = at.server, at.shape, at.classes, at.seed, at.device
    aims = list(range(classes)) if targets is None else list(targets)
    if any(aim >= classes for aim in aims):
        raise ValueError(f"inversion_black_box: targets are classes from 0 to {classes - 1}, not {aims}")
    if elites >= population:
        raise ValueError(f"inversion_black_box: {elites} elites of a population of {population} leave no child a place")
    genes, children = prod(shape), population - elites
    if genes < 2:
        raise ValueError(f"inversion_black_box: images of shape {tuple(shape)} cannot be crossed")
    searches = [(aim, number) for aim in aims for number in range(restarts)]
    wanted = torch.tensor([aim for aim, _ in searches], device=device)
    asked = 0

    def answer(individuals: torch.Tensor) -> torch.Tensor:
        """(T, n, genes) to (T, n, K)."""
        nonlocal asked
        asked += individuals.shape[0] * individuals.shape[1]
        with torch.no_grad():
            given = query(individuals.reshape(-1, *shape)).detach().float()
        if given.shape != (individuals.shape[0] * individuals.shape[1], classes):
            raise ValueError(f"inversion_black_box: {classes} probabilities an image were expected, not {given.shape}")
        finite(given, "inversion_black_box: the server's answers")
        if not ((given >= 0).all() and torch.allclose(given.sum(1), torch.ones_like(given[:, 0]), atol=1e-3)):
            raise ValueError("inversion_black_box: the answers are not probabilities; the query must end in a softmax")
        return given.view(*individuals.shape[:2], classes)

    def fitness(answers: torch.Tensor) -> torch.Tensor:
        """(T, n, K) to (T, n)."""
        return answers[torch.arange(len(searches), device=device), :, wanted]

    # The first search of a class is the same however many there are.
    names = [(seed, aim, number)[: 3 if number else 2] for aim, number in searches]
    streams = [torch.Generator().manual_seed(stable_seed("inversion_black_box", *name)) for name in names]
    individuals = torch.stack([torch.rand(population, genes, generator=stream) for stream in streams]).to(device)
    answers = answer(individuals)
    history = [fitness(answers).amax(1)]
    for generation in range(generations):
        # Five numbers a child: both parents, the point of crossing, the gene that changes and by how much.
        draws = torch.stack([torch.rand(children, 5, generator=stream) for stream in streams]).to(device)
        fit = fitness(answers)
        # Stable, so that which of two equals is an elite does not depend on how many classes are sorted at once.
        kept = fit.sort(dim=1, descending=True, stable=True).indices[:, :elites]
        parents = select(chances(fit, selection), draws[..., :2].flatten(1)).view(len(searches), children, 2)
        first, second = (_pick(individuals, parents[..., side]) for side in (0, 1))
        bred = cross(first, second, draws[..., 2])
        mutate(bred, draws[..., 3], draws[..., 4], strength * decay**generation)
        individuals = torch.cat([_pick(individuals, kept), bred], 1)
        answers = torch.cat([_pick(answers, kept), answer(bred)], 1)
        history.append(fitness(answers).amax(1))
    best = fitness(answers).argmax(1, keepdim=True)
    images = _pick(individuals, best).view(len(searches), *shape)
    fittest = history[-1].view(len(aims), restarts).argmax(1) + restarts * torch.arange(len(aims), device=device)
    return Bred(
        images[fittest], _pick(answers, best).squeeze(1)[fittest], torch.stack(history)[:, fittest], asked
    )  # fmt: skip


def query_of(model: nn.Module, batch_size: int = 500) -> Query:
    """The interface that a client of `model` sees: images (N, C, H, W) in [0, 1] to its softmax probabilities (N, K).

    model: gives logits; it is copied, so that neither its mode nor its weights can change. batch_size: images it sees
    at once. The query raises `Diverged` where a logit is not finite.
    """
    # Channels-last, as in training: LeNet answers 1.3 times as fast on a CPU.
    served = deepcopy(model).eval().to(memory_format=torch.channels_last)

    def query(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            parts = images.contiguous(memory_format=torch.channels_last).split(batch_size)
            logits = (finite(served(part).float(), "inversion_black_box: the server's outputs") for part in parts)
            return torch.cat([each.softmax(1) for each in logits])

    return query


def chances(fitness: torch.Tensor, selection: str) -> torch.Tensor:
    """What parents are drawn in proportion to, (T, P), from their fitness (T, P): that, its rank from 1 on, or 1."""
    if selection == "rank":
        return fitness.argsort(dim=1, stable=True).argsort(dim=1) + 1
    return fitness if selection == "proportional" else torch.ones_like(fitness)


def select(fitness: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Indices (T, n) of individuals drawn in proportion to their fitness (T, P); chance: (T, n), U[0, 1).

    An individual without fitness is never chosen, unless none has any: then all are equal.
    """
    weight = fitness.double()
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, 1.0)
    upper = weight.cumsum(1)
    # Right: a chance that meets an upper bound exactly belongs to the next individual, which has some weight.
    return torch.searchsorted(upper, chance.double() * upper[:, -1:], right=True).clamp_(max=fitness.shape[1] - 1)


def cross(first: torch.Tensor, second: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Children (T, n, d): the first parent's genes up to a point, the second's from there on; chance: (T, n), U[0, 1).

    The point is one of 1 to d - 1, each as likely.
    """
    genes = first.shape[-1]
    point = 1 + _below(chance, genes - 1)
    return torch.where(torch.arange(genes, device=first.device) < point[..., None], first, second)


def mutate(individuals: torch.Tensor, chance: torch.Tensor, amount: torch.Tensor, strength: float) -> None:
    """Change one gene of each individual (T, n, d) in place by up to `strength`, and project it to [0, 1].

    chance, amount: (T, n), U[0, 1); which gene, and where between -strength and strength.
    """
    gene = _below(chance, individuals.shape[-1])[..., None]
    changed = individuals.gather(-1, gene) + strength * (2 * amount[..., None] - 1)
    individuals.scatter_(-1, gene, changed.clamp_(0, 1))


def _below(chance: torch.Tensor, count: int) -> torch.Tensor:
    """U[0, 1) to whole numbers below `count`, each as likely."""
    # A float32 product can be rounded up to `count` itself.
    return (chance * count).long().clamp_(max=count - 1)


def _pick(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows (T, n, d) of each class's (T, P, d) by their indices (T, n): whole rows are copied, faster than `gather`."""
    offset = rows.shape[1] * torch.arange(len(rows), device=rows.device)[:, None]
    return rows.flatten(0, 1).index_select(0, (index + offset).flatten()).view(*index.shape, rows.shape[-1])


@checked
def judge(
    found: Found,
    at: Judging,
    *,
    coefficients: Sequence[Annotated[float, "[0, inf)"]] = (1.0,),
    score: Literal["max", "target"] = "max",
) -> Judgement:
    """Which classes the server forgot, from the prediction vectors; coefficients, score: see `_screening.judge`."""
    return _screening.judge(found["probabilities"], seed=at.seed, coefficients=coefficients, score=score)
