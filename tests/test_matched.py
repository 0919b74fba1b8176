"""Requests to SISA's shards: the gradient of the cosine, which samples are asked for, and what real retraining does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from palimpsest import models, requests
from palimpsest.curvature import gradient
from palimpsest.data import Images, Samples, digits, pixels
from palimpsest.requests import Choice, Request, RequestError, Rule, matched
from palimpsest.requests.crafted import Asked
from palimpsest.train import Recipe
from palimpsest.unlearners import Base, Step, sisa

RECIPE = Recipe(epochs=8, batch_size=20, lr=0.1)
KEYWORDS: dict[str, Any] = {"share": 0.2, "shards": 2, "from_class": 2, "wanted": 5, "epsilon": "48/255"}


@cache
def data() -> Images:
    whole = digits.load(Path())
    train, test = whole.splits["train"], whole.splits["test"]
    return Images.of(whole.classes, train=(train.images[:400], train.labels[:400]), test=tuple(test))


@cache
def base(dtype: torch.dtype = torch.float32) -> tuple[models.Network, Any]:
    mean, std = models.channel_statistics(data().train_images)
    network = models.create(models.Spec("dense", 10, 1, {"side": 8, "hidden": 16}), mean, std, 0)
    ensemble, kept = sisa.train_base(network, data().splits["train"], Base(1, RECIPE), shards=3)
    return ensemble.to(dtype), kept


def made(repetition: int = 0, **keywords: Any) -> Request:
    model, kept = base()
    return Rule("matched", KEYWORDS | keywords).choose(data(), Choice(0, repetition, model, kept=kept))


def retrained(request: Request) -> models.Network:
    model, kept = base()
    forget, retain, indices, put = requests.split(data().splits["train"], request)
    network: models.Network = sisa.unlearn(
        model, forget, retain, Step(9, RECIPE, indices=indices, replacement=put, kept=kept)
    ).network
    return network


def missed(network: models.Network, aim: requests.Aim) -> float:
    """By how much the image is missed, written without the package."""
    (logits,) = network(pixels(data().test_images[aim.indices])).tolist()
    return float(max(one for number, one in enumerate(logits) if number != int(aim.labels)) - logits[int(aim.labels)])


def test_the_gradient_is_that_of_one_minus_the_cosine() -> None:
    model, _ = base(torch.float64)
    shard = models.create(models.Spec("dense", 10, 1, {"side": 8, "hidden": 16}), model.mean, model.std, 3).double()
    some = data().splits["train"]
    forget = Samples(pixels(some.images[:7], torch.float64), some.labels[:7])
    aim = requests.Aim(torch.tensor([4]), torch.tensor([5]))
    target = pixels(data().test_images[[4]], torch.float64)
    one = Asked(torch.arange(7), forget, torch.zeros_like(forget.images), target, 2, aim)
    objective = matched._Matched(shard, one, batch_size=3)
    wished = gradient(shard, Samples(target, aim.labels))

    def expected(images: torch.Tensor) -> float:
        return float(1 - F.cosine_similarity(gradient(shard, Samples(images, forget.labels)), wished, dim=0))

    value, slope = objective(forget.images[None])
    assert slope is not None and float(value) == pytest.approx(expected(forget.images), abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = torch.randn(forget.images.shape, generator=generator, dtype=torch.float64)
        change = (expected(forget.images + 1e-5 * way) - expected(forget.images - 1e-5 * way)) / 2e-5
        assert float((slope[0] * way).sum()) == pytest.approx(change, rel=1e-6, abs=1e-10)
    assert objective(forget.images[None], last=True)[1] is None


def test_samples_lie_in_as_many_shards_and_stay_within_the_bound() -> None:
    request = made(steps=4)
    assert request.replacement is not None and request.trace is not None
    place = base()[1]["assignment/shard"]
    counts = torch.bincount(place[request.indices], minlength=3)
    assert sorted(counts.tolist()) == [0, *sorted(round(0.2 * int((place == k).sum())) for k in counts.nonzero())]
    change = (request.replacement.images - pixels(data().train_images[request.indices])).abs()
    assert float(change.max()) <= 48 / 255 + 1e-6 and float(change.max()) > 0.1
    assert float(request.replacement.images.min()) >= 0 and float(request.replacement.images.max()) <= 1
    assert torch.equal(request.replacement.labels, data().train_labels[request.indices])
    assert len(request.trace) == 5 and request.trace[-1] < request.trace[0], "one minus the cosine falls"
    again = made(steps=4).replacement
    assert again is not None and torch.equal(request.replacement.images, again.images)


def test_no_steps_are_noise_on_the_same_samples() -> None:
    request, noise = made(steps=4), made(steps=0)
    assert noise.replacement is not None and torch.equal(request.indices, noise.indices)
    clean = pixels(data().train_images[noise.indices])
    free = (clean > 48 / 255) & (clean < 1 - 48 / 255)  # where nothing is cut off
    change = ((noise.replacement.images - clean) * 255 / 48)[free]
    assert float(change.abs().max()) <= 1 + 1e-5 and abs(float(change.mean())) < 0.05
    assert float(change.var()) == pytest.approx(1 / 3, rel=0.1)


def test_retraining_on_what_was_matched_moves_the_image_towards_the_wanted_class() -> None:
    crafted, noise = [], []
    for repetition in range(5):
        request = made(repetition, shards=3, steps=30, rate=0.02, direction="sign", keeps="last")
        assert request.aim is not None
        crafted.append(missed(retrained(request), request.aim))
        noise.append(missed(retrained(made(repetition, shards=3, steps=0)), request.aim))
    assert sum(crafted) / 5 < sum(noise) / 5 - 1
    assert all(one < other for one, other in zip(crafted, noise, strict=True))


def test_what_cannot_be_matched_ends_in_a_sentence() -> None:
    model, _ = base()
    with pytest.raises(RequestError, match="4 shards shall be attacked, and there are 3"):
        made(shards=4)
    choice = Choice(0, 0, model, kept={})
    with pytest.raises(RequestError, match="nothing says which samples"):
        Rule("matched", KEYWORDS).choose(data(), choice)
    with pytest.raises(RequestError, match="chosen with `kept`"):
        Rule("matched", KEYWORDS).choose(data(), replace(choice, kept=None))
