"""Checks before belief: what must be true of the runs before any of their numbers is read.

From the rows, the forget sets' indices and the data's record alone:

- as many repetitions as asked for, each `ok` or diverged
- a forget set: indices ascending and unique, within the training set, with retain all of it
- original: it knows the images it shall forget (at least `original_knows` of paper.yaml, in %)
- retrained: on whole classes at most 1%; on single images its forget accuracy is its test accuracy, within 3 points or
  3 standard errors of the difference of two proportions, whichever is more
- no attack: the images an attack started from score as the forget images do, to one image
- attack: never worse than no attack, to 1 point or 2 images
- budget: no pixel moved by more grey levels than ε allows after rounding to 8 bits
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.report.compare import read_rows

PASSED, VIOLATED, NOT_CHECKED = "passed", "violated", "not checked"
UMA = "uma"  # the attack whose goal is the label the forget images carry
RETRAIN = "retrain"


@dataclass(frozen=True)
class Check:
    """One check over all runs. cases: how many were looked at; violations: the numbers of each that failed."""

    says: str
    cases: int
    violations: tuple[str, ...]

    @property
    def status(self) -> str:
        """Passed, violated, or not checked for want of anything to look at."""
        return VIOLATED if self.violations else PASSED if self.cases else NOT_CHECKED


Case = tuple[str, str]  # what was looked at, and what is wrong with it: empty where nothing is
Measured = dict[tuple[int, str, str, str], tuple[float, int]]  # (repetition, attack, epsilon, metric): value, images


def check(plan: Plan, paper: str, results: Path) -> list[Check]:
    """Every check over the runs of a paper; `results` is results/<scale>."""
    cells = [cell for (name, _), item in plan.items.items() if name == paper for cell in item]
    runs = list(dict.fromkeys(run for cell in cells for run in cell.runs))
    rows = {run: found for run in runs if (found := read_rows(results / run.rows))}
    measured = {run: _measured(found) for run, found in rows.items()}
    whole = {name for name, rule in plan.config["forget_sets"].items() if {"classes", "random_classes"} & set(rule)}

    def every(cases_of: Callable[[Run, Measured], Iterator[Case]]) -> list[Case]:
        return [case for run, found in measured.items() for case in cases_of(run, found)]

    asked = plan.papers[paper].get("original_knows", {})
    least: dict[str, float] = {}  # by the data set that ran; one that stands for several keeps the strictest
    for cell in cells:
        if cell.run and cell.dataset in asked:
            least[cell.run.dataset] = max(asked[cell.dataset], least.get(cell.run.dataset, 0.0))
    bounds = ", ".join(f"{name} {value:g}%" for name, value in least.items())
    cases: dict[str, Iterable[Case]] = {
        "Every run has all of its repetitions.": (
            repetitions(run, rows[run], plan.repetitions_of(run.forget)) for run in rows
        ),
        "A forget set lies in the training set, each image once; with the retain set it is all of it.": forget_sets(
            measured, results
        ),
        f"The original model knows what it shall forget (at least: {bounds}).": every(partial(original, least)),
        "A retrained model does not know a class it never saw (at most 1%), and knows forgotten single images as it "
        "knows test images (within 3 points or 3 standard errors).": every(partial(retrained, whole)),
        "The images an attack starts from score as the forget images do, to one image.": every(start),
        "An attack is never worse than none, to 1 point or 2 images.": every(never_worse),
        "No attack moves a pixel by more than ε after rounding to 8 bits.": every(within),
    }
    return [_gather(says, looked_at) for says, looked_at in cases.items()]


def repetitions(run: Run, rows: Sequence[Mapping[str, Any]], asked: int) -> Case:
    """Repetitions 0 .. asked - 1, none missing and none besides."""
    there = sorted({int(row["repetition"]) for row in rows})
    return _about(run), "" if there == list(range(asked)) else f"repetitions {there}, asked for {asked}"


def forget_sets(measured: Mapping[Run, Measured], results: Path) -> Iterator[Case]:
    """Each forget set's indices against the size of the training set, and the sizes that were measured against both."""
    for dataset, forget in dict.fromkeys((run.dataset, run.forget) for run in measured):
        record = results / "data" / f"{dataset}.record.json"
        if not record.is_file():
            continue
        train = int(json.loads(record.read_text())["train"])
        sizes = {}
        for file in sorted((results / "forget" / dataset / forget).glob("seed*.json")):
            if file.name.endswith(".record.json"):
                continue
            content = json.loads(file.read_text())
            drawn = content["several"] if "several" in content else {file.stem.removeprefix("seed"): content}
            for repetition, indices in ((int(number), one["indices"]) for number, one in drawn.items()):
                sizes[repetition] = len(indices)
                wrong = []
                if any(a >= b for a, b in pairwise(indices)):
                    wrong.append("indices not ascending and unique")
                if indices and not 0 <= min(indices) <= max(indices) < train:
                    wrong.append(f"indices {min(indices)}..{max(indices)} outside of 0..{train - 1}")
                if not 0 < len(indices) < train:
                    wrong.append(f"{len(indices)} of {train} images")
                yield f"{dataset}, {forget}, repetition {repetition}", "; ".join(wrong)
        for run, found in measured.items():
            if (run.dataset, run.forget) != (dataset, forget):
                continue
            for repetition in _repetitions(found):
                kept, gone = (
                    found.get((repetition, "none", "", f"{part}_accuracy"), (0.0, 0))[1]
                    for part in ("retain", "forget")
                )
                wrong = [f"{gone} forgotten and {kept} retained of {train}"] if kept + gone != train else []
                if repetition in sizes and sizes[repetition] != gone:
                    wrong.append(f"{gone} forget images measured, {sizes[repetition]} in the forget set")
                yield f"{_about(run)}, repetition {repetition}", "; ".join(wrong)


def original(least: Mapping[str, float], run: Run, found: Measured) -> Iterator[Case]:
    """At least so many percent on the forget images, by data set; of others nothing is asked."""
    if run.unlearner != ORIGINAL or run.dataset not in least:
        return
    for repetition, value, _ in _clean(found, "forget_accuracy"):
        yield f"{_about(run)}, repetition {repetition}", "" if value >= least[run.dataset] else f"{value:.2f}%"


def retrained(whole: Collection[str], run: Run, found: Measured) -> Iterator[Case]:
    """Near 0 where the forget set is among `whole` classes; near the test accuracy on single images."""
    if run.unlearner != RETRAIN:
        return
    for repetition, value, n in _clean(found, "forget_accuracy"):
        case = f"{_about(run)}, repetition {repetition}"
        if run.forget in whole:
            yield case, "" if value <= 1 else f"{value:.2f}%, at most 1"
        elif (repetition, "none", "", "test_accuracy_full") in found:
            test, m = found[repetition, "none", "", "test_accuracy_full"]
            p = (value * n + test * m) / (n + m) / 100
            tolerance = max(3.0, 300 * math.sqrt(p * (1 - p) * (1 / n + 1 / m)))
            wrong = abs(value - test) > tolerance
            yield case, f"{value:.2f}%, test {test:.2f}%, more than {tolerance:.1f} apart" if wrong else ""


def start(run: Run, found: Measured) -> Iterator[Case]:
    """Forget accuracy at ε = 0, from the attack's file, against the one from the data."""
    for repetition, value, n in _clean(found, "forget_accuracy"):
        if (repetition, UMA, "0", "forget_accuracy") in found:
            again = found[repetition, UMA, "0", "forget_accuracy"][0]
            wrong = abs(again - value) > 100 / n + 1e-6
            yield (
                f"{_about(run)}, repetition {repetition}",
                f"{again:.2f}%, from the data {value:.2f}%" if wrong else "",
            )


def never_worse(run: Run, found: Measured) -> Iterator[Case]:
    """UMA's forget accuracy at each ε against none."""
    for repetition, value, n in _clean(found, "forget_accuracy"):
        for (other, attack, epsilon, metric), (attacked, _) in found.items():
            if (other, attack, metric) == (repetition, UMA, "forget_accuracy") and epsilon != "0":
                wrong = attacked < value - max(1.0, 200 / n) - 1e-6
                case = f"{_about(run)}, ε = {epsilon}, repetition {repetition}"
                yield case, f"{attacked:.2f}% under attack, {value:.2f}% without" if wrong else ""


def within(run: Run, found: Measured) -> Iterator[Case]:
    """The largest change of any pixel, in grey levels, against ε."""
    for (repetition, attack, epsilon, metric), (levels, _) in found.items():
        if metric == "largest_change_levels":
            allowed = float(Fraction(epsilon) * 255)
            case = f"{_about(run)}, {attack}, ε = {epsilon}, repetition {repetition}"
            yield case, f"{levels:g} grey levels, {allowed:g} allowed" if levels > allowed + 1e-6 else ""


def _gather(says: str, cases: Iterable[Case]) -> Check:
    every = list(cases)
    return Check(says, len(every), tuple(f"{what}: {wrong}" for what, wrong in every if wrong))


def _measured(rows: Sequence[Mapping[str, Any]]) -> Measured:
    return {
        (int(row["repetition"]), row["attack"], row["epsilon"], row["metric"]): (float(row["value"]), int(row["n"]))
        for row in rows
        if row["status"] == "ok" and not row["defense"]
    }


def _repetitions(found: Measured) -> list[int]:
    return sorted({repetition for repetition, *_ in found})


def _clean(found: Measured, metric: str) -> Iterator[tuple[int, float, int]]:
    for repetition in _repetitions(found):
        if (repetition, "none", "", metric) in found:
            yield (repetition, *found[repetition, "none", "", metric])


def _about(run: Run) -> str:
    return f"{run.dataset}, {run.forget}, {run.unlearner}"
