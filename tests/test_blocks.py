"""Several repetitions in one file and one job, and rows that are the mean over several data sets or unlearners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_report import cell
from test_unlearners import flat, tiny_model

from palimpsest import models, seeds
from palimpsest.pipeline import cells, configuration
from palimpsest.pipeline.configuration import ConfigError
from palimpsest.pipeline.job import Run
from palimpsest.report import compare


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 1), (10, 5), (12, 5), (7, 10), (11, 5)])
def test_blocks_name_every_repetition_once_and_in_order(count: int, size: int) -> None:
    named = seeds.blocks(count, size)
    assert [number for block in named for number in seeds.numbers(block)] == list(range(count))
    assert all(len(seeds.numbers(block)) <= size for block in named)
    assert all(("-" in block) == (len(seeds.numbers(block)) > 1) for block in named)


def test_several_networks_in_a_file_come_back_bit_for_bit_and_the_diverged_one_says_why(tmp_path: Path) -> None:
    made: dict[int, Any] = {0: tiny_model(1), 1: models.Diverged("the loss was nan"), 4: tiny_model(2)}
    path = tmp_path / "several.safetensors"
    models.save(made, path, {number: {"seed": str(10 + number)} for number in made})
    for number in (0, 4):
        assert torch.equal(flat(models.load(path, number)), flat(made[number]))
        assert models.metadata(path, number)["seed"] == str(10 + number)
    with pytest.raises(models.Diverged, match="the loss was nan"):
        models.load(path, 1)
    with pytest.raises(models.ModelError, match="has no network 3; it has 0, 1, 4"):
        models.load(path, 3)


class Job(Run):
    """A job of a block without Snakemake around it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            SimpleNamespace(
                input=[], output=SimpleNamespace(), params=SimpleNamespace(items={}.items),
                wildcards=SimpleNamespace(items={"seed": "0-2"}.items), rule="train", threads=1,
            )
        )  # fmt: skip
        self.path = str(folder / "seed0-2.safetensors")

    def keep(self, make: Callable[[int], Any], kept: str = "") -> None:
        self.keep_models(self.path, make, {number: {"seed": str(number)} for number in range(3)}, kept)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_killed_block_makes_again_only_what_was_not_finished(keeps: bool, tmp_path: Path) -> None:
    asked: list[int] = []

    def make(number: int, fail_at: int | None) -> Any:
        asked.append(number)
        if number == fail_at:
            raise KeyboardInterrupt
        return (tiny_model(number), {"log": torch.full((2,), float(number))}) if keeps else tiny_model(number)

    kept = str(tmp_path / "seed0-2.kept.safetensors") if keeps else ""
    with pytest.raises(KeyboardInterrupt):
        Job(tmp_path).keep(lambda number: make(number, 2), kept)
    assert not Path(tmp_path / "seed0-2.safetensors").exists()
    Path(tmp_path / "seed0-2.0.resume.whole.kept").write_bytes(b"damaged")
    job = Job(tmp_path)
    job.keep(lambda number: make(number, None), kept)
    assert asked == [0, 1, 2, 0, 2]
    for number in range(3):
        assert torch.equal(flat(models.load(job.path, number)), flat(tiny_model(number)))
        assert not keeps or job.read_tensors(kept, number)["log"].tolist() == [number] * 2
    left = {"seed0-2.safetensors", *({"seed0-2.kept.safetensors"} if keeps else ())}
    assert {file.name for file in tmp_path.iterdir()} == left


def test_a_block_of_other_inputs_does_not_resume(tmp_path: Path) -> None:
    def fail(number: int) -> models.Network:
        if number:
            raise KeyboardInterrupt
        return tiny_model(1)

    with pytest.raises(KeyboardInterrupt):
        Job(tmp_path).keep(fail)
    other = Job(tmp_path)
    other.wildcards["model"] = "another"
    other.keep(lambda number: tiny_model(5))
    assert torch.equal(flat(models.load(other.path, 0)), flat(tiny_model(5)))


def rows(values: dict[int, float], n: int = 10) -> list[dict[str, Any]]:
    key = {"attack": "uma", "epsilon": "8/255", "defense": "", "metric": "forget_accuracy"}
    return [
        {**key, "repetition": number, "value": value, "unit": "%", "n": n, "status": "ok"}
        for number, value in values.items()
    ]


def test_a_row_of_several_data_sets_is_the_mean_of_each_repetition_that_all_have() -> None:
    found = compare.judge(cell(), rows({0: 80.0, 1: 90.0, 2: 70.0}), rows({0: 60.0, 1: 50.0}))
    assert found.values == {0: 70.0, 1: 70.0} and found.mean == 70.0 and found.sd == 0.0
    assert found.images == 20
    assert compare.judge(cell(), rows({0: 80.0}), []).mean is None


def test_a_mean_without_one_of_its_data_sets_says_so_and_is_not_judged() -> None:
    config = configuration.load(scale="laptop")
    table = cells.Plan(config).tables["leakage", "table5"]
    assert all("without svhn" in one.reductions for one in table)
    assert {run.dataset for one in table for run in one.runs} == {"mnist", "fashion_mnist", "cifar10_10k"}
    found = compare.judge(replace(cell(), reductions=("without svhn",)), rows({0: 90.0, 1: 90.0}))
    assert found.verdict == "stand-in"


def test_an_average_row_has_the_runs_of_every_unlearner_and_data_set() -> None:
    plan = cells.Plan(configuration.load(scale="paper"))
    average = next(one for one in plan.tables["leakage", "table7"] if one.unlearner.count("+") == 4)
    assert len(average.runs) == 4 * 5 and not average.reductions


def test_as_many_networks_as_data_sets() -> None:
    plan = cells.Plan(configuration.load(scale="paper"))
    row = dict.fromkeys(cells.COLUMNS, "") | {
        "dataset": "mnist+svhn", "model": "lenet", "forget": "single_class", "unlearner": "retrain", "attack": "none"
    }  # fmt: skip
    with pytest.raises(ConfigError, match="as many networks as data sets"):
        plan._cell("leakage", "table5", 2, row)


def test_a_base_training_is_told_the_requests_of_its_block_alone() -> None:
    plan = cells.Plan(configuration.load(scale="laptop"))
    of_first = plan.requests_of("mnist", "lenet", "amnesiac_long", "0-4")
    assert of_first == ["single_class", "three_classes"]
    assert plan.requests_of("cifar10_10k", "resnet18_imagenet", "amnesiac_long", "0-2") == [
        "single_class_3", "three_classes_3"
    ]  # fmt: skip
    assert plan.requests_of("mnist", "lenet", "amnesiac_long", "0-3") == []
