"""What a newcomer brings: a method of each kind as one file and one line, and a paper as a folder of its own."""

from __future__ import annotations

from pathlib import Path

# By what it is: its file below src/palimpsest/, the file's text, and its one line of config.yaml with the section.
METHODS = {
    "unlearner": (
        "unlearners/toy.py",
        '''"""A toy: weights times a factor."""

from typing import Annotated

from palimpsest.unlearners import unlearner


@unlearner
def unlearn(model, forget, retain, at, *, factor: Annotated[float, "(0, 1]"] = 0.5):
    """The model with its weights scaled."""
    for parameter in model.parameters():
        parameter.data *= factor
    return model
''',
        "unlearners",
        "toy: {factor: 0.25, also_in: uma_table1}",
    ),
    "data set": (
        "data/inverted.py",
        '''"""The digits, black on white."""

from palimpsest.data import Images, digits


def load(root):
    """As the digits, each pixel 255 less what it was."""
    found = digits.load(root)
    parts = {name: (255 - images, labels) for name, (images, labels) in found.splits.items()}
    return Images.of(found.classes, **parts)
''',
        "datasets",
        "inverted: {}",
    ),
    "request kind": (
        "requests/first.py",
        '''"""The first training samples."""

from typing import Annotated

import torch

from palimpsest.requests import Request


def choose(images, at, *, count: Annotated[int, "[1, inf)"] = 10):
    """The first `count` samples."""
    return Request(torch.arange(count))
''',
        "requests",
        "first_20: {method: first, count: 20}",
    ),
    "attack on images": (
        "attacks/on_images/plain_noise.py",
        '''"""Uniform noise, which knows no model."""

from fractions import Fraction

import torch

from palimpsest.attacks.on_images import Attacked


def attack(at, *, epsilons=("8/255",)):
    """Each image with noise of up to epsilon."""
    generator = torch.Generator().manual_seed(at.seed)
    noise = torch.rand(at.samples.images.shape, generator=generator).mul(2).sub(1)
    levels = torch.stack([noise * round(float(Fraction(one)) * 255) for one in epsilons])
    images = (at.samples.images + levels).round().clamp(0, 255).to(torch.uint8)
    return Attacked(images, at.samples.labels, torch.zeros(images.shape[:2]))
''',
        "attacks",
        "plain_noise: {epsilons: [8/255]}",
    ),
}
# A metric is a file, and is measured where a line of a table asks for it.
METRIC = (
    "metrics/counted.py",
    '''"""How many samples the forget set has."""

METRICS = {"forget_count": {"unit": "images", "kind": "set", "bounds": (0, None), "of": "forget"}}
NEEDS = ("forget",)


def measure(outputs):
    """One number."""
    clean = outputs.clean("forget")
    yield clean.number("forget_count", len(clean.labels))
''',
)
# Replacements crafted against an unlearner on another network than the one that is asked: up the loss of what the
# unlearner would make of that network.
CRAFTED = (
    "requests/uphill.py",
    '''"""The first training samples, changed against an unlearner on a surrogate network."""

from typing import Annotated

import torch

from palimpsest.data import Samples, pixels
from palimpsest.requests import Request
from palimpsest.unlearners import Step

NEEDS = ("model", "unlearner", "surrogates")


def choose(images, at, *, count: Annotated[int, "[1, inf)"] = 10):
    """One step of the sign of the gradient, as floats."""
    train = images.splits["train"]
    forget, retain = (Samples(*(part[chosen] for part in train)) for chosen in (slice(count), slice(count, None)))
    asked = Samples(pixels(forget.images), forget.labels)
    step = Step(seed=at.seed, recipe=at.recipe, indices=torch.arange(count), replacement=asked)
    network = at.unlearner(at.surrogates[0], forget, retain, step).network
    x = asked.images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(network(x), forget.labels).backward()
    return Request(torch.arange(count), Samples((x + 8 / 255 * x.grad.sign()).clamp(0, 1).detach(), forget.labels))
''',
)
PAPER = {
    "paper.yaml": """title: A planted paper
cite: "Nobody, 2026."
protocol: It shows that a paper is its own folder.
names: {toy: a toy}
layout:
  groups:
    - {label: No attack, short: "", cells: {epsilon: [""]}, columns: [UA, N, T, I]}
    - {label: Noise, short: noise, cells: {epsilon: [8/255]}, columns: [UA]}
  places: {UA: 2, N: 0, T: 1, I: 1}
  metrics:
    forget_accuracy: {column: UA, says: accuracy on the forgotten images}
    forget_count: {column: N, says: how many images are forgotten}
    isolated_recall: {column: I, says: of what was asked for how much was isolated}
    unlearning_seconds: {column: T, says: seconds}
tables:
  methods: {title: New methods, caption: The table shows one method of each kind.}
  chains: {title: Chains, caption: The table shows models after several steps.}
""",
    "config.yaml": """requests:
  worst_20: {method: margin, count: 20}
  three_tenths: {method: samples, share: 0.1, repetitions: 3, once: true}
  noisy_30: {method: noise, count: 30}
  crafted_10: {method: uphill, count: 10, against: first_order, surrogate: small_cnn}
unlearners:
  finetune_nearest: {method: finetune, epochs: 1, from_nearest: true}
  defended: {method: medoid_defense, backbone: sisa, share: 0.1}
""",
    "methods.csv": """dataset,model,forget,unlearner,attack,epsilon,metric,published,note
inverted,small_cnn_narrow,first_20,toy,none,,forget_count,,planted
inverted,small_cnn_narrow,first_20,toy,none,,forget_accuracy,,planted
inverted,small_cnn_narrow,first_20,toy,plain_noise,8/255,forget_accuracy,,planted
digits,small_cnn_narrow,three_tenths,original,none,,forget_accuracy,,planted
digits,small_cnn_narrow,three_tenths,finetune,none,,unlearning_seconds,1,planted
digits,small_cnn_narrow,three_tenths,finetune,uma,8/255,forget_accuracy,,planted
""",
    "chains.csv": """dataset,model,forget,unlearner,attack,metric,published,note
digits,small_cnn_narrow,class_0-random_tenth,sisa-sisa,none,forget_accuracy,,planted
digits,small_cnn_narrow,class_0-random_tenth-same,sisa-sisa-finetune,none,forget_accuracy,,planted
digits,small_cnn_narrow,noisy_30-same,sisa-defended,none,isolated_recall,,planted
digits,small_cnn_narrow,random_tenth-worst_20,retrain-finetune,none,forget_accuracy,,planted
digits,small_cnn_narrow,three_tenths,finetune,none,forget_accuracy,,planted
digits,small_cnn_narrow,three_tenths-same,finetune-finetune_nearest,none,forget_accuracy,,planted
digits,small_cnn_narrow,crafted_10,first_order,none,forget_accuracy,,planted
""",
}


def plant(project: Path) -> None:
    """Put all of it into a copy of the project."""
    source, config = project / "src" / "palimpsest", project / "config" / "config.yaml"
    text = config.read_text()
    for name, content, section, line in METHODS.values():
        (source / name).write_text(content)
        if f"\n{section}: {{}}\n" in text:
            text = text.replace(f"\n{section}: {{}}\n", f"\n{section}: {{{line}}}\n")
        else:
            text = text.replace(f"\n{section}:\n", f"\n{section}:\n  {line}\n")
    config.write_text(text)
    for name, content in (METRIC, CRAFTED):
        (source / name).write_text(content)
    folder = project / "config" / "papers" / "planted"
    folder.mkdir()
    for name, content in PAPER.items():
        (folder / name).write_text(content)
