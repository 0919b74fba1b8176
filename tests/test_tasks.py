"""The contract of every file in tasks/, and what each task says of targets, losses and distances."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from palimpsest.data import Samples
from palimpsest.pipeline import method
from palimpsest.tasks import classification, reconstruction

DATA = Samples(torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3)
OUTPUTS = {"classification": (6, 3), "reconstruction": (6, 1, 4, 4)}


def draw(name: str, seed: int = 0) -> torch.Tensor:
    return torch.rand(OUTPUTS[name], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", method.names("tasks"))
class TestContract:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_loss_is_a_scalar_answers_and_distances_are_by_sample(self, name: str, dtype: torch.dtype) -> None:
        task, outputs = import_module(f"palimpsest.tasks.{name}"), draw(name).to(dtype)
        loss = task.loss(outputs, task.targets(DATA))
        assert loss.shape == () and loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        answers = task.answer(outputs)
        assert len(answers) == 6 and answers.dtype == torch.float32 and answers.min() >= 0 and answers.max() <= 1
        for kind in task.DISTANCES:
            far, near = task.distance(outputs, draw(name, 1).to(dtype), kind), task.distance(outputs, outputs, kind)
            assert far.shape == (6,) and (far >= near).all()

    def test_another_distance_is_refused(self, name: str) -> None:
        task = import_module(f"palimpsest.tasks.{name}")
        with pytest.raises(ValueError, match=f"{name}: distance cannot be 'l7'; it takes {', '.join(task.DISTANCES)}"):
            task.distance(draw(name), draw(name), "l7")


def test_classification_measures_by_the_softmax() -> None:
    outputs, wanted = draw("classification"), draw("classification", 1)
    p, q = wanted.softmax(1), outputs.softmax(1)
    for kind, expected in (
        ("kl", (p * (p / q).log()).sum(1)),
        ("mse", ((outputs - wanted) ** 2).mean(1)),
        ("bce", -(p * q.log() + (1 - p) * (1 - q).log()).mean(1)),
        ("cross_entropy", -q.gather(1, p.argmax(1)[:, None]).squeeze(1).log()),
    ):
        assert torch.allclose(classification.distance(outputs, wanted, kind), expected, atol=1e-6)
    assert torch.equal(classification.targets(DATA), DATA.labels)


def test_reconstruction_wants_the_image_itself_whatever_the_labels() -> None:
    targets = reconstruction.targets(DATA)
    assert torch.equal(targets * 255, DATA.images.float())
    for dtype in (torch.float32, torch.float64):
        floats = Samples(DATA.images.to(dtype) / 255, DATA.labels)
        assert reconstruction.targets(floats) is floats.images
    outputs = draw("reconstruction")
    each = torch.stack([((o - t) ** 2).mean() for o, t in zip(outputs, targets, strict=True)])
    assert torch.allclose(reconstruction.distance(outputs, targets, "mse"), each)
    assert float(reconstruction.loss(outputs, targets)) == pytest.approx(float(each.mean()))
