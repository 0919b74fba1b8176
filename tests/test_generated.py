"""What an observer sees in a set of generated images, against direct computations; and the PSNR of reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from palimpsest import families
from palimpsest.measure import outputs_of
from palimpsest.metrics import Answers, Outputs, generated, reconstruction
from palimpsest.predict import Predicted


def features(count: int, size: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """Normal features with correlations, float32 as `predict` saves them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(size) + 0.3 * torch.randn(size, size, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, size, generator=generator) @ mixing * scale + shift


def direct(one: torch.Tensor, other: torch.Tensor) -> float:
    """The Fréchet distance in float64, with the principal square root of a symmetric matrix."""
    mu, nu = one.double().mean(0), other.double().mean(0)
    first, second = (
        ((part.double() - mean).T @ (part.double() - mean) / (len(part) - 1)).numpy()
        for part, mean in ((one, mu), (other, nu))
    )
    root = sqrtm(first)
    middle = sqrtm(root @ second @ root)
    return float((mu - nu) @ (mu - nu)) + float(np.trace(first + second - 2 * middle.real))


# Fréchet distance


@pytest.mark.parametrize(("count", "size"), [(300, 12), (500, 48), (64, 2)])
def test_the_frechet_distance_is_that_of_a_direct_computation(count: int, size: int) -> None:
    made, images = features(count, size, 1, shift=0.4, scale=1.3), features(count + 7, size, 2)
    assert generated.frechet(made, images) == pytest.approx(direct(made, images), rel=1e-9)


def test_the_frechet_distance_of_known_moments() -> None:
    """Diagonal covariances: |mu - nu|^2 + sum (s - t)^2, here of samples whose moments are exact."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * math.sqrt(3 / 4)
    made = signs * torch.tensor([2.0, 0.5]) + torch.tensor([3.0, 0.0])
    expected = 3.0**2 + (2 - 1) ** 2 + (0.5 - 1) ** 2
    assert generated.frechet(made, signs) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [40, 500])
def test_a_set_is_at_no_distance_from_itself_in_any_order(count: int) -> None:
    """With 40 images of 48 features too, where no covariance has full rank and roundings are largest."""
    images = features(count, 48, 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for other in (images, images[order]):
        assert 0 <= generated.frechet(images, other) < 1e-4
    apart = features(count, 48, 2, shift=0.1)
    assert generated.frechet(images[order], apart) == pytest.approx(generated.frechet(images, apart), rel=1e-7)
    assert generated.frechet(images, apart) > 0.1


def test_the_spread_is_the_deviation_over_samples() -> None:
    def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = features(200, 8, 2 * seed)
        return 0.8 * images + 0.6 * features(200, 8, 2 * seed + 1, scale=1.3) + 0.5, images

    true = float(np.std([generated.frechet(*pair(seed)) for seed in range(400)], ddof=1))
    found = math.sqrt(np.mean([generated.spread(*pair(seed)) ** 2 for seed in range(1000, 1025)]))
    # 400 samples know the deviation to 4%, 25 spreads of 20 draws theirs to 6%; the factor for small b is 29% off.
    assert found == pytest.approx(true, rel=0.18)


def test_the_spread_is_that_of_one_seed_and_of_pairs() -> None:
    images = features(101, 6, 1)
    made = images + 0.5
    assert generated.spread(made, images) == generated.spread(made, images)
    # The shift is the whole distance and every pair has it: nothing is left to vary.
    assert generated.spread(made, images) < 1e-6 < 1e-2 < generated.spread(made[torch.randperm(101)], images)


# Inception score


@pytest.mark.parametrize(("count", "splits"), [(2, 1), (199, 1), (200, 2), (950, 9), (1000, 10), (1313, 10)])
def test_the_score_is_a_direct_sum_over_as_many_splits_as_there_are_images_for(count: int, splits: int) -> None:
    logits = torch.randn(count, 5, generator=torch.Generator().manual_seed(3)) * 3
    shuffled = logits.double()[torch.from_numpy(np.random.RandomState(2020).permutation(count))]
    scores = []
    for place in range(splits):
        part = shuffled[place * count // splits : (place + 1) * count // splits]
        p = [(row.exp() / row.exp().sum()).tolist() for row in part]
        q = [sum(row[label] for row in p) / len(p) for label in range(5)]
        total = sum(row[label] * math.log(row[label] / q[label]) for row in p for label in range(5))
        scores.append(math.exp(total / len(p)))
    assert generated.score(logits) == pytest.approx(sum(scores) / splits, rel=1e-9)


def test_the_score_is_one_where_all_images_look_alike_and_the_number_of_classes_where_each_is_sure() -> None:
    assert generated.score(torch.randn(1, 7).expand(300, 7)) == pytest.approx(1)
    assert generated.score(torch.eye(6).repeat(25, 1) * 100) == pytest.approx(6)


# Kernel distance


def unbiased(made: torch.Tensor, images: torch.Tensor) -> float:
    """MMD^2 with the cubic kernel, pair by pair."""
    size = made.shape[1]

    def kernel(one: torch.Tensor, other: torch.Tensor) -> float:
        return (float(one @ other) / size + 1) ** 3

    def mean(first: torch.Tensor, second: torch.Tensor, *, same: bool) -> float:
        values = [
            kernel(one, other) for i, one in enumerate(first) for j, other in enumerate(second) if not same or i != j
        ]
        return sum(values) / len(values)

    made, images = made.double(), images.double()
    return mean(made, made, same=True) + mean(images, images, same=True) - 2 * mean(made, images, same=False)


def test_the_kernel_distance_is_a_direct_sum_over_pairs_in_any_order() -> None:
    made, images = features(40, 5, 1, shift=0.3), features(40, 5, 2)
    found = generated.kernel(made, images)
    assert found == pytest.approx(unbiased(made, images), rel=1e-9)
    assert generated.kernel(made.flip(0), images) == pytest.approx(found, rel=1e-9)


def test_the_kernel_distance_is_zero_on_average_of_one_distribution_and_more_of_two() -> None:
    same = [generated.kernel(features(60, 8, seed), features(60, 8, seed + 500)) for seed in range(60)]
    error = float(np.std(same, ddof=1)) / math.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error and min(same) < 0 < max(same)
    shifted = [generated.kernel(features(60, 8, seed, shift=1.0), features(60, 8, seed + 500)) for seed in range(20)]
    assert min(shifted) > max(same)


def test_of_many_images_the_kernel_distance_is_a_mean_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "SUBSET_SIZE", 50)
    made, images = features(120, 6, 1, shift=0.4), features(120, 6, 2)
    found = generated.kernel(made, images)
    assert found == generated.kernel(made, images), "one seed"
    whole = unbiased(made, images)
    assert found != pytest.approx(whole, rel=1e-6) and found == pytest.approx(whole, rel=0.25)


# The family


def answers(
    of: str, attack: str, epsilon: str, seen: dict[str, dict[str, torch.Tensor]], **kept: torch.Tensor
) -> Answers:
    kept |= seen.get("answers", {})
    labels = torch.zeros(len(next(iter(kept.values()))), dtype=torch.int64)
    return Answers(of, labels, kept, attack, epsilon, seen=seen.get("images", {}))


def observed(count: int, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    logits = torch.randn(2 * count, 4, generator=torch.Generator().manual_seed(seed))
    return {
        "answers": {"features": features(count, 6, seed, shift=0.2), "logits": logits[:count]},
        "images": {"features": features(count, 6, 77), "logits": logits[count:]},
    }


def outputs(*sets: Answers) -> Outputs:
    return Outputs(0, sets, torch.zeros(10, dtype=torch.bool), 5)


def test_every_attacked_set_that_was_observed_has_its_numbers() -> None:
    shown = {epsilon: observed(30, seed) for seed, epsilon in enumerate(("0", "8/255"))}
    found = outputs(
        *(answers("forget", "uma", epsilon, seen) for epsilon, seen in shown.items()),
        answers("held_out", "uma", "0", {}, error=torch.zeros(3)),
    )
    assert {"attacked", "observed"} <= found.there
    numbers = list(generated.measure(found))
    assert {(one.metric, one.epsilon) for one in numbers} == {
        (metric, epsilon) for metric in generated.METRICS if metric.startswith("generated") for epsilon in shown
    }
    value = {(one.metric, one.epsilon): one.value for one in numbers}
    for epsilon, seen in shown.items():
        both = seen["answers"]["features"], seen["images"]["features"]
        assert value["generated_fid", epsilon] == generated.frechet(*both)
        assert value["generated_kid", epsilon] == generated.kernel(*both)
        assert value["generated_is", epsilon] == generated.score(seen["answers"]["logits"])
        assert value["generated_fid_spread", epsilon] > 0
    assert all(one.n == 30 and one.attack == "uma" for one in numbers)
    declared = families.declared()["generated"]
    for one in numbers:
        low = declared.metrics[one.metric].bounds[0]
        assert low is None or one.value >= low


def test_an_observer_is_told_by_the_test_images_that_it_recognises() -> None:
    test = answers("test", "none", "", {}, recognised=torch.tensor([True, False, True, True]))
    (found,) = generated.measure(outputs(test))
    assert (found.metric, found.value, found.n, found.attack) == ("observer_accuracy", 75.0, 4, "none")


@pytest.mark.parametrize(("count", "undefined"), [(0, 4), (1, 4), (2, 1), (3, 1), (4, 0)])
def test_of_too_few_images_nothing_is_said(count: int, undefined: int) -> None:
    seen = {of: {name: tensor[:count] for name, tensor in some.items()} for of, some in observed(8, 1).items()}
    numbers = list(generated.measure(outputs(answers("forget", "uma", "0", seen))))
    assert sum(math.isnan(one.value) for one in numbers) == undefined
    assert len(numbers) == 4 and all(not math.isinf(one.value) for one in numbers)


def test_without_an_observer_there_is_nothing_to_measure() -> None:
    found = outputs(answers("forget", "uma", "0", {}, error=torch.zeros(3)))
    assert "observed" not in found.there and not list(generated.measure(found))


# Errors and PSNR


def sets() -> Iterator[Answers]:
    for seed, of in enumerate(("forget", "unseen", "retained", "held_out")):
        drawn = torch.rand(2, 20, generator=torch.Generator().manual_seed(seed))
        yield answers(of, f"uma_{of}", "8/255", {}, error=drawn[0], to_target=drawn[1])


def test_psnr_is_the_mean_of_each_images_own() -> None:
    found = {(one.metric, one.attack): one for one in reconstruction.measure(outputs(*sets()))}
    assert len(found) == 4 * 4
    for answer in sets():
        for metric, errors in ((answer.of, answer["error"]), ("attacked", answer["to_target"])):
            one = found[f"{metric}_psnr", answer.attack]
            assert one.value == pytest.approx(sum(10 * math.log10(1 / error) for error in errors.tolist()) / 20)
            assert one.value > -10 * math.log10(float(errors.mean())), "the mean of a convex function"
            assert found[f"{metric}_mse", answer.attack].value == pytest.approx(float(errors.double().mean()))
            assert (one.n, one.epsilon) == (20, "8/255")


def test_psnr_ends_where_rounding_to_8_bits_does() -> None:
    levels = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = (levels - (levels * 255).round() / 255).square().mean()
    exact, least = reconstruction.decibels(torch.tensor([0.0, 1.0])).tolist()
    assert exact == pytest.approx(-10 * math.log10(float(rounded)), abs=0.05) and least == 0
    low, high = families.declared()["reconstruction"].metrics["forget_psnr"].bounds
    assert (low, high) == (0, pytest.approx(exact, abs=0.01)) and exact <= high


def test_every_set_that_may_be_asked_about_is_declared() -> None:
    of = ("forget", "unseen", "retain", "retained", "held_out", "test", "attacked")
    gains = {"test_gain", "test_gain_over_average"}
    assert {*reconstruction.METRICS} == gains | {f"{name}_{what}" for name in of for what in ("mse", "psnr")}
    for name, fields in reconstruction.METRICS.items():
        assert name.startswith(f"{fields['of']}_")


def test_what_was_predicted_of_any_attacked_set_is_measured() -> None:
    """From saved tensors: an attack on held-out images has rows under their name."""
    errors = torch.rand(5, generator=torch.Generator().manual_seed(1))
    tensors: dict[str, Any] = {
        "forgotten": torch.zeros(3, dtype=torch.bool), "parameters": torch.tensor(7),
        "attacked/far/labels": torch.zeros(5, dtype=torch.int64), "attacked/far/loss": torch.zeros(1, 5),
        "attacked/far/change": torch.zeros(2),
    }  # fmt: skip
    for of in ("forget", "retain", "test"):
        tensors |= {f"{of}/labels": torch.zeros(5, dtype=torch.int64), f"{of}/error": errors}
    for epsilon in ("0", "none"):
        tensors |= {f"attacked/far/{epsilon}/{name}": errors for name in ("error", "to_target")}
    header = {"attacks": {"far": {"on": "held_out", "epsilons": ["0", "none"]}}, "defenses": []}
    found = list(reconstruction.measure(outputs_of(0, Predicted(tensors, header))))
    assert {one.metric for one in found if one.attack == "far"} == {
        "held_out_mse", "held_out_psnr", "attacked_mse", "attacked_psnr"
    }  # fmt: skip
