"""The GPU check runs on what a bare image has, within its time, and what it says can be false."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from card import REAL

from palimpsest import data, processor
from palimpsest.data import digits
from palimpsest.models import Spec
from palimpsest.train import recipe_from

ROOT = Path(__file__).parents[1]
# A process in which what a bare image lacks cannot be imported.
BARE = """
import runpy, sys
for name in ("dvc", "jinja2", "jsonschema", "matplotlib", "seaborn", "snakemake", "yaml"):
    sys.modules[name] = None
sys.path.insert(0, {folder!r})
sys.argv = ["gpu.py", *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "benchmarks"))


def bare(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder = ROOT / "benchmarks"
    code = BARE.format(folder=str(folder), script=str(folder / "gpu.py"), arguments=list(arguments))
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, env=env)


def test_the_whole_check_on_a_cpu_with_nothing_but_what_a_bare_image_has(tmp_path: Path) -> None:
    keywords = ["--unlearner-keywords", '{"epochs": 1}', "--attack-keywords", '{"steps": 2}']
    ended = bare(
        "--dataset", "digits", "--model", "small_cnn", "--device", "cpu", "--threads", "1", "--images", "200",
        "--recipe", '{"epochs": 1}', *keywords, "--without-compiling", "--minutes", "10", "--out", str(tmp_path),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["finished"] and all(step["status"] == "ok" for step in found["steps"])
    assert [step["step"].split(":")[0] for step in found["cell"]] == ["train", "unlearn", "attack", "evaluate"]
    assert all(row["images_per_second"] > 0 and row["share_of_peak"] for row in found["speeds"])
    assert {row["attack"] for row in found["measured"]} == {"none", "uma"}
    assert (tmp_path / "gpu.md").read_text().strip() == ended.stdout.strip()
    assert "no card" in ended.stdout


def test_a_processor_without_bfloat16_is_checked_in_float32_and_the_table_says_so(tmp_path: Path) -> None:
    ended = bare(
        "--dataset", "digits", "--model", "resnet18_narrow", "--device", "cpu", "--threads", "1", "--images", "20",
        "--recipe", '{"epochs": 1, "warmup_epochs": 0}', "--unlearner-keywords", '{"epochs": 1}',
        "--attack-keywords", '{"steps": 1}', "--without-compiling", "--minutes", "5", "--out", str(tmp_path),
        ONEDNN_MAX_CPU_ISA="AVX2",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["precision"] for row in found["speeds"]} == {"float32"}
    said = {row["note"] for row in found["speeds"]} | {found["cell"][0]["precision"]}
    assert said == {"float32: no bfloat16 in this hardware"}


def test_missing_data_ends_in_one_sentence(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(SystemExit, match="data_batch_1: expected a file with md5"):
        gpu.main(["--dataset", "cifar10", "--data", str(tmp_path), "--device", "cpu", "--out", str(tmp_path)])


def test_networks_are_those_of_the_configuration(gpu: ModuleType) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for name, (file, keywords, recipe) in gpu.NETWORKS.items():
        entry = dict(config["models"][name])
        assert (entry.pop("method", name), entry) == (file, keywords)
        assert recipe_from(recipe) == recipe_from(config["recipes"][name])


@pytest.mark.skipif(REAL, reason="compares the CPU with itself")
def test_agreement_needs_float32(gpu: ModuleType, tmp_path: Path) -> None:
    images = digits.load(tmp_path)
    spec = Spec("small_cnn", 10, 1, {"width": 8, "hidden": 16})
    for row in gpu.compare(spec, images, "cpu", "float32"):
        assert row["cpu"] == row["card"]
        assert row["agrees"] is None, "there is nothing to compare with"
    logits, steps, _ = gpu.compare(spec, images, "cpu", "bfloat16")
    assert logits["agrees"] is False and logits["card"] > 100 * logits["allowed"]
    assert steps["agrees"] is not processor.has_bfloat16("cpu"), "without it in hardware a job trains in float32"


def test_a_step_that_takes_too_long_or_fails_is_a_row_and_stops_nothing(gpu: ModuleType, tmp_path: Path) -> None:
    settings: dict[str, Any] = dict.fromkeys(("dataset", "model", "unlearner", "attack"), "x") | {"device": "cpu"}
    check = gpu.Check(settings, gpu.machine("cpu"), tmp_path, time.monotonic() + 1000)
    started = time.monotonic()
    with check.step("long", 0.001), gpu.within(500):
        try:
            time.sleep(60)
        except Exception:  # as a library may do
            time.sleep(60)
    with check.step("wrong", 0.5):
        torch.zeros(2) + torch.zeros(3)
    with check.step("inner", 0.5):
        with pytest.raises(gpu.OutOfTime), gpu.within(0.1):
            time.sleep(60)
        time.sleep(0.2)  # the inner clock does not go on
    assert time.monotonic() - started < 30
    found = json.loads((tmp_path / "gpu.json").read_text())
    statuses = [step["status"] for step in found["steps"]]
    assert statuses[0].startswith("stopped after its 1 s") and statuses[1].startswith("RuntimeError: The size of")
    assert statuses[2] == "ok" and not found["finished"]
    assert "| wrong | RuntimeError" in (tmp_path / "gpu.md").read_text()


def test_a_file_of_the_workflow_is_data_too_and_is_cut_by_class(gpu: ModuleType, tmp_path: Path) -> None:
    labels = torch.arange(60) % 3
    images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    data.save(
        data.Images.of(("a", "b", "c"), train=(images, labels), test=(images[:9].clone(), labels[:9].clone())),
        tmp_path / "some.safetensors",
    )
    chosen = gpu.options(["--data", str(tmp_path / "some.safetensors"), "--images", "12", "--device", "cpu"])
    found = gpu.images_of(chosen)
    assert torch.bincount(found.train_labels).tolist() == [4, 4, 4]
    assert torch.bincount(found.test_labels).tolist() == [3, 3, 3]
