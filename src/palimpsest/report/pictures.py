"""Figures that show images: what was inverted, what an attack added, and what a request put in place of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest.pipeline import paths
from palimpsest.pipeline.address import Addresses
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.values import named
from palimpsest.report import compare
from palimpsest.report.compare import Compared

Words = Mapping[str, Any]  # of paper.yaml
PAGE = 7.16  # inches, the width of a page of two columns
SHOWN = 6  # pictures of a data set


def images(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw for each cell the inverted image of every class, and above it a training image of that class."""
    from safetensors import safe_open  # slow to import, and few figures read pixels

    names = about.get("names", {})
    grids = []
    for run, one in {one.cell.runs[0]: one for one in found if one.cell.runs}.items():
        place = {**run.names, "attack": one.cell.attack, "block": plan.blocks(run)[0]}
        data = safe_open(results / paths.below("data", "images", dataset=run.dataset), framework="numpy")
        probed = safe_open(results / paths.below("probe", "probed", **place), framework="numpy")
        labels, pixels = data.get_tensor("train/labels"), data.get_slice("train/images")
        inverted = probed.get_tensor("0/images")
        real = [pixels[int(np.flatnonzero(labels == label)[0])] for label in range(len(inverted))]
        grids.append((run, _forgotten(one, results), real, inverted))
    classes = max((len(real) for *_, real, _ in grids), default=1)
    figure, axes = plt.subplots(2 * len(grids), classes, figsize=(PAGE, 1.62 * len(grids)), squeeze=False)
    for row, (run, forgotten, *both) in enumerate(grids):
        for (offset, kind), label in product(enumerate(both), range(len(both[0]))):
            axis, image = axes[2 * row + offset, label], kind[label].astype(float)
            image = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
            axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=bool(offset) and label in forgotten, color="#D55E00", linewidth=1.5)
        axes[2 * row, 0].set_ylabel(f"{named(run.dataset, names)}\nreal", fontsize=6)
        axes[2 * row + 1, 0].set_ylabel("inverted", fontsize=6)
    figure.tight_layout(pad=0.3)
    return figure


def pictures(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw for each cell a few images, what an attack added to them, enlarged, and the sum, with both models' answers.

    Images of which the attack turned a wrong answer into the label come first, else the order is the data set's.
    """
    from safetensors import safe_open

    names = about.get("names", {})
    shown = [(one, run) for one in found for run in one.cell.runs[:1]]
    figure, axes = _grid(len(shown), 3)
    for block, (one, run) in enumerate(shown):
        place, attack, epsilon = {**run.names, "block": plan.blocks(run)[0]}, one.cell.attack, one.cell.epsilon
        data, made, asked = (
            safe_open(results / path, framework="numpy")
            for path in (
                paths.below("data", "images", dataset=run.dataset),
                paths.below("attack", "attacked", **place, attack=attack),
                paths.below("predict", "outputs", **place),
            )
        )
        classes = json.loads(data.metadata()["about"])["classes"]
        level = json.loads(made.metadata()["about"])["0"]["epsilons"].index(epsilon)
        clean, moved = made.get_tensor("0/clean").astype(int), made.get_slice("0/images")[level].astype(int)
        before, after = (asked.get_tensor(f"0/attacked/{attack}/{of}/predicted") for of in ("0", epsilon))
        labels, sought = made.get_tensor("0/labels"), made.get_tensor("0/targets")
        turned = (before != labels) & (after == labels)
        for column, index in enumerate(np.argsort(~turned, kind="stable")[:SHOWN]):
            change = moved[index] - clean[index]
            largest = max(int(np.abs(change).max()), 1)
            first, then, now = (classes[answers[index]] for answers in (sought, before, after))
            panels = (
                (clean[index] / 255, f"original: {first}\nunlearned: {then}"),
                (0.5 + change / largest / 2, f"times {127.5 / largest:.0f}"),
                (moved[index] / 255, f"unlearned: {now}"),
            )
            for row, (image, title) in enumerate(panels):
                _panel(axes[3 * block + row, column], image, title)
        whose = "\n→ ".join(named(name, names) for name in dict.fromkeys((one.cell.dataset, run.dataset)))
        for row, title in enumerate((whose, "added, enlarged", "attacked")):
            axes[3 * block + row, 0].set_ylabel(title, fontsize=6)
    return figure


def replaced(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw for each cell, a column for each of a few repetitions: a sample of its request, what was taken from it,
    enlarged, what was submitted, and the test image that the request is aimed at, with both models' answers.

    The sample is the one that changed most.
    """
    from safetensors import safe_open

    names, addresses = about.get("names", {}), Addresses(plan)
    shown = [(one, run) for one in found for run in one.cell.runs[:1]]
    figure, axes = _grid(len(shown), 4)
    for block, (one, run) in enumerate(shown):
        first = plan.blocks(run)[0]
        request = addresses.requests(run, first)[-1].path  # below results/<scale>
        data, asked, answered = (
            safe_open(results / path, framework="numpy")
            for path in (
                paths.below("data", "images", dataset=run.dataset),
                Path(*Path(request).parts[2:]),
                paths.below("predict", "outputs", **run.names, block=first),
            )
        )
        classes = json.loads(data.metadata()["about"])["classes"]
        train, test = data.get_tensor("train/images"), data.get_slice("test/images")
        labels = data.get_tensor("train/labels")
        there = {name.partition("/")[0] for name in asked.keys() if name.endswith("/images")}
        for column, number in enumerate(sorted(there, key=int)[:SHOWN]):
            indices, aims = (asked.get_tensor(f"{number}/{name}") for name in ("indices", "aim/indices"))
            submitted = asked.get_tensor(f"{number}/images")
            submitted = submitted / 255 if submitted.dtype == np.uint8 else submitted
            clean = train[indices] / 255
            change = clean - submitted
            most = int(np.abs(change).reshape(len(change), -1).mean(1).argmax())
            largest = max(float(np.abs(change[most]).max()), 1e-9)
            before, after = (
                classes[int(answered.get_tensor(f"{number}/{of}/predicted")[aims[0]])] for of in ("before", "test")
            )
            panels = (
                (clean[most], classes[labels[indices[most]]]),
                (0.5 + change[most] / largest / 2, f"times {0.5 / largest:.0f}"),
                (submitted[most], f"one of {len(indices)}"),
                (test[int(aims[0])] / 255, f"before: {before}\nafter: {after}"),
            )
            for row, (image, title) in enumerate(panels):
                _panel(axes[4 * block + row, column], image, title)
        whose = "\n→ ".join(named(name, names) for name in dict.fromkeys((one.cell.dataset, run.dataset)))
        for row, title in enumerate((whose, "taken away, enlarged", "submitted", "aimed at")):
            axes[4 * block + row, 0].set_ylabel(title, fontsize=6)
    return figure


def restored(plan: Plan, about: Words, own: Words, found: Sequence[Compared], results: Path) -> Figure:
    """Draw for each cell a few images, what the network is shown of them, the original model's answer, and the model's
    own: to the image, and to what the attack made of it in each of the cell's balls.
    """
    from safetensors import safe_open

    names = about.get("names", {})
    rows = {"image": "image", "hidden": "what is shown", "wanted": "original", "0": "unlearned"}
    rows |= {epsilon: "no bound" if epsilon == "none" else f"ε = {epsilon}" for epsilon in own["at"]}
    shown = [(one, run) for one in found for run in one.cell.runs[:1]]
    figure, axes = _grid(len(shown), len(rows), 0.9)
    for block, (one, run) in enumerate(shown):
        place = paths.below("predict", "outputs", **run.names, block=plan.blocks(run)[0])
        kept = safe_open(results / place, framework="numpy")
        for row, (name, title) in enumerate(rows.items()):
            below = axes[len(rows) * block + row]
            for axis, picture in zip(below, kept.get_tensor(f"0/pictures/{one.cell.attack}/{name}"), strict=False):
                _panel(axis, picture / 255, "")
            below[0].set_ylabel(title, fontsize=6)
        axes[len(rows) * block, 0].set_title(named(one.cell.attack, names), fontsize=6, loc="left")
    return figure


def _grid(blocks: int, rows: int, height: float = 1.25) -> tuple[Figure, np.ndarray]:
    """Return a figure of `rows` pictures below one another for each block, at least one, without ticks and frames.

    height: of a row, in inches.
    """
    count = max(blocks, 1)
    size = PAGE, (height * rows + 0.2) * count
    figure, axes = plt.subplots(rows * count, SHOWN, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=False)
    return figure, axes


def _panel(axis: Axes, image: np.ndarray, title: str) -> None:
    """Draw an image (C, H, W) in [0, 1] with what stands above it."""
    axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=5.5)


def _forgotten(one: Compared, results: Path) -> list[int]:
    rows = compare.read_rows(results / one.cell.runs[0].rows)
    return next((list(row["forgotten"]) for row in rows if "forgotten" in row), [])
