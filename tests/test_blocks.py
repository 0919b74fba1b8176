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
from palimpsest.pipeline.address import Addresses
from palimpsest.pipeline.configuration import ConfigError
from palimpsest.pipeline.job import Job, nearest_to_the_mean
from palimpsest.pipeline.job import job as run_job
from palimpsest.report import compare

ENDS = {"model": "safetensors", "kept": "kept.safetensors", "record": "record.json"}


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


class Block(Job):
    """A job of a block without Snakemake around it."""

    def __init__(self, folder: Path, key: str = "this") -> None:
        super().__init__(
            SimpleNamespace(
                input={}, output={"model": folder / "0-2.safetensors", "kept": folder / "0-2.kept.safetensors"},
                params=SimpleNamespace(asks={}, key=key), wildcards={"block": "0-2"}, rule="train", threads=1,
                config={},
            )
        )  # fmt: skip

    def keep(self, make: Callable[[int], Any]) -> None:
        self.keep_models(make, lambda number: {"seed": str(number)})


@pytest.mark.parametrize("keeps", [True, False])
def test_a_killed_block_makes_again_only_what_was_not_finished(keeps: bool, tmp_path: Path) -> None:
    asked: list[int] = []

    def make(number: int, fail_at: int | None) -> Any:
        asked.append(number)
        if number == fail_at:
            raise KeyboardInterrupt
        return (tiny_model(number), {"log": torch.full((2,), float(number))}) if keeps else tiny_model(number)

    with pytest.raises(KeyboardInterrupt):
        Block(tmp_path).keep(lambda number: make(number, 2))
    assert not (tmp_path / "0-2.safetensors").exists()
    (tmp_path / ".0-2.resume" / "0.whole.kept").write_bytes(b"damaged")
    job = Block(tmp_path)
    job.keep(lambda number: make(number, None))
    assert asked == [0, 1, 2, 0, 2]
    for number in range(3):
        assert torch.equal(flat(models.load(job.output.model, number)), flat(tiny_model(number)))
        left = job.read_tensors(job.output.kept, number)
        assert left["log"].tolist() == [number] * 2 if keeps else not left


def test_the_seconds_of_a_repetition_are_those_of_all_its_parts_and_outlive_a_kill(tmp_path: Path) -> None:
    def make(job: Block, number: int, fail_at: int | None = None) -> models.Network:
        for part in range(2):
            job.checkpoint(number, part).earlier.append(1000.0 * number)  # as if it went on from there
            with job.timed(number):
                pass
        if number == fail_at:
            raise KeyboardInterrupt
        if number == 1:
            raise models.Diverged("nan")
        return tiny_model(number)

    killed, job = Block(tmp_path), Block(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        killed.keep(lambda number: make(killed, number, fail_at=2))
    job.keep(lambda number: make(job, number))
    assert job.seconds[0] == killed.seconds[0] and 0 < job.seconds[0] < 1, "not made again, and not forgotten"
    assert 4000 < job.seconds[2] < 4001 and job.seconds[2] != killed.seconds[2]


def test_a_block_of_another_key_does_not_resume(tmp_path: Path) -> None:
    def fail(number: int) -> models.Network:
        if number:
            raise KeyboardInterrupt
        return tiny_model(1)

    with pytest.raises(KeyboardInterrupt):
        Block(tmp_path).keep(fail)
    other = Block(tmp_path, key="another")
    other.keep(lambda number: tiny_model(5))
    assert torch.equal(flat(models.load(other.output.model, 0)), flat(tiny_model(5)))


def test_a_finished_job_leaves_nothing_to_resume_from_and_a_failed_one_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = SimpleNamespace(
        rule="train", wildcards={"block": "0-1"}, input={}, params=SimpleNamespace(asks={}, key="this"), threads=1,
        output={name: f"0-1.{end}" for name, end in ENDS.items()}, resources={"gpu": 0}, log=[],
        config={"jobs_per_gpu": 1, "scale": "tiny"},
    )  # fmt: skip
    with pytest.raises(SystemExit), run_job(told) as run:
        run.keep_models({0: tiny_model(0)}.__getitem__, lambda number: {})
    assert {file.name for file in (tmp_path / ".0-1.resume").iterdir()} == {"0.whole", "0.whole.kept"}
    with run_job(told) as run:
        run.keep_models({1: tiny_model(1)}.__getitem__, lambda number: {})
    assert {file.name for file in tmp_path.iterdir()} == {f"0-1.{end}" for end in ENDS.values()}


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
    assert all("without svhn" in map(str, one.reductions) for one in table)
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
    at = Addresses(cells.Plan(configuration.load(scale="laptop")))

    def told(dataset: str, model: str, block: str) -> list[str]:
        base = at("train", dataset=dataset, model=model, base="amnesiac_long", block=block)
        return [file.split("/", 4)[4] for file in base.inputs.get("requests", [])]

    assert told("mnist", "lenet", "0-3") == ["single_class/0-3.safetensors", "three_classes/0-3.safetensors"]
    assert told("cifar10_10k", "resnet18_quarter_imagenet", "0-3") == ["single_class/0-3.safetensors"]


@pytest.mark.parametrize(
    ("values", "nearest"), [([90, 70, 84], 2), ([90, None, 70], 0), ([None, None], 0), ([None, 90], 1)]
)
def test_what_goes_on_from_the_nearest_run_goes_on_from_a_diverged_one_only_where_all_are(
    values: list[float | None], nearest: int
) -> None:
    assert nearest_to_the_mean(dict(enumerate(values))) == nearest
