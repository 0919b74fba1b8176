"""The outputs of one model, computed once: for the clean sets, every attacked set, and each of these behind every
defense.

A job on the card writes them down; `measure` then needs no network. The tensors of one repetition, by name, with N
samples and K classes:

    forgotten                      bool (K,), the classes of which retain has no sample
    parameters                     int64 (), how many weights the network has
    {set}/labels                   int64 (N,), in the order of the data set, of `forget`, `retain` and `test`
    {set}/{name}                   (N, ...), what the task keeps of the outputs (its `kept`), for the sets
        forget, test
        retain                       the largest set, of which less is kept (`brief`)
        before                       the test set, by the model before unlearning, where that is given
        attacked/{attack}/{epsilon}  the images that an attack made; "0" are those that it started from
        {defense}:{set}              purified images: `forget`, `test` and `attacked/{attack}/{epsilon}`
    attacked/{attack}/labels       int64 (N,), of the samples that it attacked
    attacked/{attack}/loss         float32 (E, N), the attack's loss for each epsilon but "0"
    attacked/{attack}/change       float32 (E + 1,), the largest change of a pixel, in grey levels
    attacked/{attack}/{seen}       (N, ...), what an observer sees in the images that the attack started from, and
    attacked/{attack}/{epsilon}/{seen}  in the model's answers, where these are pictures: `features` and `logits`
    test/recognised                bool (N,), whether the observer recognises the image, where it knows these classes
    pictures/{attack}/{name}       uint8 (n, C, H, W), of a few: the `image`, what is left of it where a part is
                                   `hidden`, the `wanted` answer, and the model's at each epsilon
    test/filled, test/averaged     float32 (N,), the task's distance of the answers that fill what is hidden of an image
                                   with the mean of the rest, and with the mean of the training images
    told/{name}                    (), a number that the last unlearner says of its own step (`unlearners`)
    aim/{name}                     what a crafted request is aimed at, where one is (`requests.aim_of`)

A defense purifies every image before the model sees it. The attacks did not know of it, so the protection measured here
is the most that it can give. Where a model or its outputs are not finite there are no outputs, but `Diverged`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from palimpsest import numbered
from palimpsest.data import Images, Samples
from palimpsest.data import pixels as pixels_of
from palimpsest.features import observed
from palimpsest.models import Diverged, Network, answers, finite
from palimpsest.tasks import Pictures, Task, classification

Purify = Callable[[torch.Tensor], torch.Tensor]
CLEAN = "0"  # the epsilon of the images that an attack started from
PICTURES = 6  # of each attacked set so many pictures are kept as they are, for figures
GREY = torch.tensor(128, dtype=torch.uint8)  # what stands in a picture for what is hidden


@dataclass(frozen=True)
class Attacked:
    """What an attack left (see `attacks.on_images.Attacked`); `clean` are the images it started from, `on` names their
    set.
    """

    on: str
    epsilons: tuple[str, ...]
    images: torch.Tensor
    clean: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor


class Predicted(NamedTuple):
    """The outputs of one repetition: tensors by name on the CPU, and what a reader must know to find them.

    header: `attacks`, by name the set that each was tried on (`on`) and its `epsilons` from "0" on; `defenses`, their
    names; `diverged`, why there are no outputs, where there are none. A job adds `about`, values that go into every
    row, such as the seed.
    """

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]


def outputs(
    model: nn.Module,
    images: Images,
    forget: Samples,
    retain: Samples,
    attacked: Mapping[str, Attacked] = MappingProxyType({}),
    defenses: Mapping[str, Purify] = MappingProxyType({}),
    before: nn.Module | None = None,
    task: Task = classification,
    observer: Network | None = None,
) -> Predicted:
    """Compute every output of `model`; images, models and attacked images lie on one device.

    defenses: by name, functions from images to purified ones of the same form. task: that of the models. observer: a
    classifier that looks at the model's answers to attacked images, where these are pictures. Raises `Diverged` where
    the model's weights or its outputs are not finite.
    """
    finite(model, "the network's weights")
    test = images.splits["test"]
    found = {
        "forgotten": _forgotten(images, retain),
        "parameters": torch.tensor(sum(parameter.numel() for parameter in model.parameters())),
        "forget/labels": forget.labels,
        "test/labels": test.labels,
        "retain/labels": retain.labels,
    }

    drawn = cast(Pictures, task)  # only where a network's answers are pictures

    def ask(
        network: nn.Module, name: str, samples: Samples, shown: torch.Tensor, aimed: torch.Tensor | None, of: str
    ) -> torch.Tensor:
        """Keep the model's outputs for images under a name, by batches; `shown` stands in the place of `samples`.

        Return the answers as pictures where an observer looks at them, else nothing.
        """
        parts, pictures, done = [], [shown[:0]], 0
        for part in answers(network, shown, task=task, of=of, like=samples.images):
            here = slice(done, done := done + len(part))
            batch = Samples(samples.images[here], samples.labels[here])
            parts.append(task.kept(part, batch, None if aimed is None else aimed[here], name == "retain"))
            if observer and aimed is not None:
                pictures.append(drawn.pictured(part))
        found.update({f"{name}/{key}": torch.cat([one[key] for one in parts]) for key in parts[0]})
        return torch.cat(pictures)

    def see(name: str, pictures: torch.Tensor) -> None:
        """Keep under a name what the observer sees in pictures."""
        assert observer
        found.update({f"{name}/{key}": tensor for key, tensor in observed(observer, pictures).items()})

    ask(model, "retain", retain, retain.images, None, "the retained images")
    if before:
        ask(before, "before", test, test.images, None, "the test images, before unlearning,")
    asked: dict[str, tuple[Samples, torch.Tensor, torch.Tensor | None]] = {
        name: (samples, samples.images, None) for name, samples in (("forget", forget), ("test", test))
    }
    for attack, made in attacked.items():
        if not bool(torch.isfinite(made.loss).all()):
            raise Diverged(f"the loss of {attack} is not finite")
        name = f"attacked/{attack}"
        every = (made.clean, *made.images)
        found |= {f"{name}/labels": made.labels, f"{name}/loss": made.loss}
        found[f"{name}/change"] = torch.tensor([_levels(pixels, made.clean) for pixels in every])
        clean = Samples(made.clean, made.labels)
        for epsilon, pixels in zip((CLEAN, *made.epsilons), every, strict=True):
            asked[f"{name}/{epsilon}"] = clean, pixels, made.targets
        if observer:
            see(name, made.clean)
            some = _spread(len(made.clean))
            found[f"pictures/{attack}/image"] = made.clean[some]
            found[f"pictures/{attack}/wanted"] = drawn.pictured(made.targets[some])
            if isinstance(model, Network) and model.hides:
                hidden = torch.where(model.visible(pixels_of(made.clean[some])), made.clean[some], GREY)
                found[f"pictures/{attack}/hidden"] = hidden
    if isinstance(model, Network) and model.hides:
        parts = [Samples(*part) for part in zip(test.images.split(500), test.labels.split(500), strict=True)]
        average = _average(forget, retain)
        for name, with_ in (("filled", None), ("averaged", average)):
            lost = [drawn.filled(part, model.visible(pixels_of(part.images)), with_) for part in parts]
            found[f"test/{name}"] = torch.cat(lost)
    # An observer with published weights may know other classes; one image shows it.
    if observer and observed(observer, test.images[:1])["logits"].shape[1] == len(images.classes):
        found["test/recognised"] = observed(observer, test.images)["logits"].argmax(1) == test.labels
    for name, (samples, shown, aimed) in asked.items():
        pictures = ask(model, name, samples, shown, aimed, name)
        if observer and aimed is not None:
            see(name, pictures)
            found[name.replace("attacked/", "pictures/", 1)] = pictures[_spread(len(pictures))]
        for defense, purify in defenses.items():
            ask(model, f"{defense}:{name}", samples, purify(shown), aimed, f"{name} behind {defense}")
    attacks = {name: {"on": made.on, "epsilons": [CLEAN, *made.epsilons]} for name, made in attacked.items()}
    return Predicted(
        {name: tensor.cpu() for name, tensor in found.items()}, {"attacks": attacks, "defenses": list(defenses)}
    )


def diverged(reason: Diverged, images: Images, retain: Samples) -> Predicted:
    """Return what stands in the place of missing outputs: which classes the model was to forget, and why there are
    none.
    """
    return Predicted({"forgotten": _forgotten(images, retain).cpu()}, {"diverged": str(reason)})


def save(found: Mapping[int, Predicted], path: Path | str) -> None:
    """Write the outputs of several repetitions into one file."""
    numbered.save({n: one.tensors for n, one in found.items()}, path, {n: one.header for n, one in found.items()})


def read(path: Path | str, device: str = "cpu") -> dict[int, Predicted]:
    """Return the outputs in a file, by repetition."""
    return {n: Predicted(numbered.read(path, n, device), header) for n, header in numbered.about(path).items()}


def read_attacked(path: Path | str, number: int, device: str) -> Attacked:
    """Return what rule `attack` left of a repetition; raises `Diverged` where the model to be attacked had diverged.

    The tensors are the fields of `Attacked`; the header has `on` and `epsilons`.
    """
    tensors, header = numbered.read(path, number, device), numbered.about(path)[number]
    if "diverged" in header:
        raise Diverged(header["diverged"])
    return Attacked(on=header["on"], epsilons=tuple(header["epsilons"]), **tensors)


def _spread(count: int) -> torch.Tensor:
    """Return the places of a few among so many images, which may be ordered by class: evenly from first to last."""
    return torch.linspace(0, max(count - 1, 0), min(PICTURES, count)).long()


def _average(*sets: Samples) -> torch.Tensor:
    """Return the mean of all images of some sets, (C, H, W) in [0, 1]."""
    total = sum(pixels_of(part, torch.float64).sum(0) for images, _ in sets for part in images.split(500))
    return (torch.as_tensor(total) / sum(len(images) for images, _ in sets)).float()


def _forgotten(images: Images, retain: Samples) -> torch.Tensor:
    classes = torch.arange(len(images.classes), device=retain.labels.device)
    return torch.isin(classes, retain.labels.unique(), invert=True)


def _levels(pixels: torch.Tensor, clean: torch.Tensor) -> float:
    """Return the largest difference of two tensors of images, in grey levels; floats span [0, 1]; without images it is
    0.
    """
    if not pixels.numel():
        return 0.0
    if pixels.dtype == torch.uint8:
        return float((pixels.int() - clean.int()).abs().max())
    return float((pixels - clean).abs().max()) * 255
