"""The plan: Snakemake's graph as it is, schedules that keep their bounds, and figures that say what they rest on."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_workflow import TINY, jobs, snakemake

from palimpsest.data import hold_back
from palimpsest.pipeline import configuration, paths
from palimpsest.pipeline.estimate import BASES, GUESSED, MEASURED, SCALED, Amount, Costs
from palimpsest.pipeline.plan import Job, critical_path, graph
from palimpsest.pipeline.provenance import read_records
from palimpsest.report import spending

ROOT = Path(__file__).parents[1]
SNAKEFILE = """
rule all:
    input: "end.txt"
rule start:
    output: "start{n}.txt"
    threads: 3
    resources: gpu=1
    params: asks=lambda wildcards: {"size": int(wildcards.n) * 2}
    shell: "touch {output}"
rule middle:
    input: "start1.txt", "start2.txt"
    output: "middle.txt"
    shell: "touch {output}"
rule end:
    input: "middle.txt", "start2.txt"
    output: "end.txt"
    shell: "touch {output}"
"""
# A paper-scale cell, and what its jobs are told.
TRAIN = {"dataset": "cifar10", "model": "resnet50", "base": "plain", "block": "0"}
CELL = {"dataset": "cifar10", "model": "resnet50", "forget": "class_0", "unlearner": "salun", "block": "0"}
RECIPE = {"epochs": 182, "batch_size": 256, "lr": 0.1}
SALUN = {"method": "salun", "keywords": {"epochs": 10}, "recipe": RECIPE}


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return configuration.load(scale="paper")


def record(rule: str, cell: dict[str, str], asks: dict[str, Any], seconds: float, **other: Any) -> dict[str, Any]:
    """A job's record on a card at the scale `paper`, where `other` does not say otherwise."""
    made = {"scale": "paper", "rule": rule, "cell": cell, "params": asks, "seconds": seconds, "device": "NVIDIA H100"}
    return {**made, "outputs": {"results/paper/x.safetensors": "sha256:"}, **other}


def job(rule: str, cell: dict[str, str], asks: dict[str, Any], number: int = 0, **other: Any) -> Job:
    return Job(number, rule, cell=cell, asks=asks, gpus=1, threads=4, **other)


def chain(*edges: tuple[int, int], count: int, **about: Any) -> list[Job]:
    """Jobs 0 to `count` - 1, each on one card and core, that wait as `edges` (before, after) say."""
    return [
        Job(n, "x", frozenset(before for before, after in edges if after == n), gpus=1, **about) for n in range(count)
    ]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables of a plan, by their first cell."""
    split = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|")
    return {first: rest for first, *rest in split}


def test_the_critical_path_is_the_longest_chain() -> None:
    seconds = {0: 2.0, 1: 3.0, 2: 4.0, 3: 1.0}
    assert critical_path(chain((0, 1), (0, 2), (1, 3), (2, 3), count=4), seconds) == (7.0, [0, 2, 3])


@pytest.mark.parametrize("seed", range(8))
def test_no_chain_of_a_graph_of_chance_is_longer(seed: int) -> None:
    draw = random.Random(seed)
    edges = [pair for pair in itertools.combinations(range(6), 2) if draw.random() < 0.3]
    seconds = {n: float(draw.randint(1, 9)) for n in range(6)}

    def longest(n: int) -> float:
        return seconds[n] + max((longest(after) for before, after in edges if before == n), default=0.0)

    length, path = critical_path(chain(*edges, count=6), seconds)
    assert length == max(map(longest, range(6))) == sum(seconds[n] for n in path)
    assert all((before, after) in edges for before, after in itertools.pairwise(path))


def test_the_graph_is_snakemakes_with_edges_to_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    monkeypatch.chdir(tmp_path)

    def read() -> dict[tuple[str, str], Job]:
        return {(one.rule, one.cell.get("n", "")): one for one in graph({"any": 1}, "all", 10**6, tmp_path)}

    found = read()
    names = {one.id: name for name, one in found.items()}
    edges = {name: {names[before] for before in one.after} for name, one in found.items()}
    assert edges == {
        ("all", ""): {("end", "")},
        ("end", ""): {("middle", ""), ("start", "2")},
        ("middle", ""): {("start", "1"), ("start", "2")},
        ("start", "1"): set(),
        ("start", "2"): set(),
    }
    assert not any(one.done for one in found.values())
    start = found["start", "2"]
    assert (start.threads, start.gpus, start.asks) == (3, 1, {"size": 4})
    assert (found["end", ""].threads, found["end", ""].gpus) == (1, 0)
    assert start.runs and not found["all", ""].runs, "a target runs nothing"
    said = snakemake(tmp_path, "-n", config=("any=1",))
    assert {**Counter(rule for rule, _ in found), "total": len(found)} == jobs(said)
    (tmp_path / "start1.txt").touch()
    found = read()
    assert [name for name, one in found.items() if one.done] == [("start", "1")]
    assert found["start", "1"].id in found["middle", ""].after
    with pytest.raises(configuration.ConfigError, match="nowhere"):
        graph({"any": 1}, "nowhere", 10**6, tmp_path)


def test_a_jobs_own_record_is_its_time_and_other_records_scale(paper: dict[str, Any]) -> None:
    own = record("unlearn", CELL, SALUN, 321.0)
    costs = Costs(paper, [own])
    assert costs.seconds(job("unlearn", CELL, SALUN)) == Amount(321.0, MEASURED)
    other = costs.seconds(job("unlearn", {**CELL, "block": "1"}, SALUN))
    assert other == Amount(pytest.approx(321.0), SCALED), "another repetition"
    longer = costs.seconds(job("unlearn", CELL, {**SALUN, "keywords": {"epochs": 30}}))
    assert longer == Amount(pytest.approx(963.0), SCALED), "another budget is not what was measured"
    tiny = costs.seconds(job("unlearn", {**CELL, "dataset": "tiny_imagenet"}, SALUN))
    assert tiny == Amount(pytest.approx(321.0 * 2 * 4), SCALED), "twice the images of four times the pixels"
    for elsewhere in ({"scale": "laptop"}, {"device": "cpu"}):
        assert Costs(paper, [{**own, **elsewhere}]).seconds(job("unlearn", CELL, SALUN)).basis != MEASURED
    block = costs.seconds(job("unlearn", {**CELL, "block": "0-9"}, SALUN))
    assert block.value == pytest.approx(3210.0), "ten repetitions in one job"


def test_a_record_of_the_first_layout_counts_all_its_repetitions(paper: dict[str, Any]) -> None:
    cell = {"dataset": "cifar10", "model": "resnet50", "seed": "0-4"}
    before = record("train", cell, {"recipe": RECIPE}, 500.0)
    assert Costs(paper, [before]).seconds(job("train", TRAIN, {"recipe": RECIPE})) == Amount(pytest.approx(100), SCALED)


def test_a_figure_is_a_guess_as_soon_as_one_of_its_parts_is(paper: dict[str, Any]) -> None:
    speed = paper["plan"]["speed"]["gpu"]["resnet50"]["images_per_second"]
    wanted = job("unlearn", CELL, SALUN)
    # On a CPU an image of salun took twice the time of a trained one of the same network, which is no card's speed.
    narrow = {"dataset": "cifar10_10k", "model": "resnet18_narrow", "block": "0"}
    cpu = {"scale": "laptop", "device": "cpu"}
    elsewhere = [
        record("train", narrow, {"recipe": {"epochs": 12}}, 120.0, **cpu),
        record("unlearn", {**narrow, "forget": "class_0", "unlearner": "salun"}, SALUN, 200.0, **cpu),
    ]
    assert Costs(paper, []).seconds(wanted) == Amount(pytest.approx(500_000 / speed), GUESSED)
    assert Costs(paper, elsewhere).seconds(wanted) == Amount(pytest.approx(1e6 / speed), GUESSED)
    card = record("train", TRAIN, {"recipe": RECIPE}, 182 * 50_000 / 2500)
    assert Costs(paper, [card]).seconds(wanted) == Amount(pytest.approx(500_000 / 2500), GUESSED)
    both = Costs(paper, [card, *elsewhere])
    assert both.seconds(wanted) == Amount(pytest.approx(1e6 / 2500), SCALED), "both factors were measured"
    other = Job(0, "data", cell={"dataset": "mnist"})
    assert Costs(paper, [record("data", {"dataset": "svhn"}, {}, 3.0)]).seconds(other) == Amount(3.0, SCALED)
    assert Costs(paper, []).seconds(Job(0, "all", runs=False)).value == 0, "a target runs nothing"


def test_an_attack_counts_the_images_it_is_aimed_at(paper: dict[str, Any]) -> None:
    def images(forget: str, on: str) -> float:
        asks = {"on": on, "keywords": {"epsilons": ["8/255", "16/255"], "steps": 100}}
        return Costs(paper, []).work("attack", {**CELL, "forget": forget, "block": "0-2"}, asks) / (3 * 2 * 100)

    assert (images("class_0", "forget"), images("class_0", "unseen")) == (5000, 1000)
    assert (images("random_5000", "forget"), images("random_5000", "unseen")) == (5000, 5000)


def test_a_method_without_epochs_counts_what_its_mini_batches_read(paper: dict[str, Any]) -> None:
    def images(name: str, **keywords: Any) -> float:
        asks = {"method": name, "keywords": keywords, "recipe": RECIPE}
        return Costs(paper, []).work("unlearn", {**CELL, "unlearner": name}, asks)

    assert images("influence_woodfisher", alpha=2) == 50_000, "5,000 images at once, the data set read once"
    assert images("fisher_noise", batch_forget=1024) == 5 * 50_000
    assert images("influence_lissa", batch_forget=1024, batch_retain=64, depth=100) == 5 * 2 * 100 * 64
    assert images("retrain") == 182 * 50_000 and images("finetune", epochs=10) == 10 * 50_000
    assert images("medoid_defense", backbone="first_order", settings={"tau": 1}) == 50_000
    assert images("medoid_defense", backbone="finetune", settings={"epochs": 2}) == 2 * 50_000
    assert images("medoid_defense", backbone="retrain") == 182 * 50_000


def test_a_later_step_of_a_chain_counts_its_own_request(paper: dict[str, Any]) -> None:
    config = {**paper, "requests": {**paper["requests"], "few": {"method": "samples", "count": 25}}}
    asks = {"method": "fisher_noise", "keywords": {"batch_forget": 25}, "recipe": RECIPE}

    def images(forget: str) -> float:
        return Costs(config, []).work("unlearn", {**CELL, "forget": forget}, asks) / 50_000

    assert images("class_0-few") == images("class_0-same-few") == 1, "one mini-batch of 25"
    assert images("few-few-same") == 2, "a step that asks for nothing new has all that was asked before it"


def test_a_step_of_a_chain_counts_what_all_its_requests_forgot(paper: dict[str, Any]) -> None:
    config = {**paper, "requests": {**paper["requests"], "few": {"method": "samples", "count": 25}}}
    cell = {**CELL, "forget": "class_0-few", "unlearner": "salun-finetune"}
    asks = {"on": "forget", "keywords": {"steps": 1}}
    assert Costs(config, []).work("attack", cell, asks) == 5000 + 25


def test_a_record_that_does_not_say_what_was_done_is_left_out(paper: dict[str, Any], tmp_path: Path) -> None:
    asks = {"attacks": ["uma"], "defenses": {"jpeg": {}}}
    old = record("predict", CELL, {"attacks": ["uma"]}, 9.0)
    costs = Costs(paper, [old])
    assert costs.seconds(job("predict", CELL, asks)).basis == GUESSED
    assert costs.work("predict", {**CELL, "block": "0-2"}, asks) == 3 * (60_000 + 2 * 5000)
    assert Costs(paper, [{**old, "params": asks}]).seconds(job("predict", CELL, asks)) == Amount(9.0, MEASURED)
    folder = tmp_path / "paper" / "rows"
    folder.mkdir(parents=True)
    (folder / "half.record.json").write_text('{"rule": ')
    (folder / "whole.record.json").write_text(json.dumps({k: v for k, v in old.items() if k != "scale"}))
    assert read_records(tmp_path) == [old]


def test_the_plan_separates_done_from_left_and_its_shares_add_up(paper: dict[str, Any]) -> None:
    long = {
        **CELL,
        "forget": "classes_4_12_66_72_97_143_149_165_175_190",
        "attack": "uma_wrong_label",
    }
    made = [
        Job(0, "train", cell=TRAIN, asks={"recipe": RECIPE}, done=True, gpus=1, threads=4),
        job("unlearn", CELL, SALUN, 1, after=frozenset({0})),
        job("attack", long, {"method": "uma", "on": "forget", "keywords": {"steps": 9}}, 2, after=frozenset({1})),
        Job(3, "all", frozenset({2}), runs=False),
    ]
    costs = Costs(paper, [record("train", TRAIN, {"recipe": RECIPE}, 7200.0), record("unlearn", CELL, SALUN, 3600.0)])
    attack = costs.seconds(made[2]).value / 3600
    text = spending.markdown(made, costs)
    assert "4 jobs: 1 done, 3 to run." in text and max(map(len, text.splitlines())) <= 100
    tables = rows(text)
    share = f"{100 / (1 + attack):.0f}%"
    for name, hours in {
        "GPU hours": 1 + attack,
        "CPU hours (cores held)": 4 * (1 + attack),
        "critical path, hours": 1 + attack,
        **{f"hours on {n} GPU{'s' * (n > 1)} and {8 * n} cores, no less than": 1 + attack for n in (1, 4, 16, 64)},
    }.items():
        said, *shares = tables[name]
        assert float(said) == pytest.approx(hours, rel=0.05), f"{name}: a chain gains nothing from cards"
        assert dict(zip(BASES, shares, strict=True))[MEASURED] == share, name
        assert sum(float(one.strip("%")) for one in shares if one != "-") == pytest.approx(100, abs=1)
    assert tables["done already: GPU hours"] == ["2.0", "100%", "-", "-"]
    assert tables["unlearn"][:3] == ["1", "1", "1.0"] and tables["train"][:3] == ["1", "0", "0"]
    chain = text[text.index("The critical path:") :]
    assert chain.index("1.0 h, measured: unlearn cifar10 resnet50 class_0 salun 0") < chain.index("h, guess: attack")
    lines = list(csv.DictReader(spending.tidy(made, costs).splitlines()))
    assert [(line["rule"], line["state"], line["basis"]) for line in lines] == [
        ("train", "done", MEASURED),
        ("unlearn", "to run", MEASURED),
        ("attack", "to run", GUESSED),
        ("all", "to run", MEASURED),
    ]


def test_every_stage_that_the_plan_weighs_is_a_rule(paper: dict[str, Any]) -> None:
    stated = {name.partition("/")[0] for name in (*paper["plan"]["weights"], *paper["plan"]["seconds"])}
    assert stated - {"other"} <= set(paths.OUTPUTS)


def test_what_is_stated_of_data_sets_and_networks_is_so(paper: dict[str, Any], tmp_path: Path) -> None:
    stated = paper["plan"]["images"]
    assert set(stated) == set(paper["datasets"])
    for name in ("digits", "digit_pairs", "digit_pairs_200", "digit_pairs_spared"):
        load = import_module(f"palimpsest.data.{configuration.method_of(paper, 'datasets', name)}").load
        images = load(tmp_path, **configuration.keywords_of(paper, "datasets", name))
        images = hold_back(images, paper["datasets"][name].get("hold_back", {}))
        assert stated[name] == {
            "train": len(images.train_labels),
            "test": len(images.test_labels),
            "classes": len(images.classes),
            "shape": list(images.train_images.shape[1:]),
        }
    for file in (ROOT / "results" / "laptop" / "data").glob("*.record.json"):
        facts = json.loads(file.read_text())
        name = facts["cell"]["dataset"]
        assert (stated[name]["train"], stated[name]["test"]) == (facts["train"], facts["test"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with the scale `tiny`, in which nothing has run."""
    for name in ("config", "profiles", "workflow", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "warm_start": False}))
    return tmp_path


def test_the_rule_prints_the_plan_of_what_is_left(project: Path) -> None:
    snakemake(project, "results/tiny/data/digits.safetensors")
    target = ("scale=tiny", "plan={target: uma_table4}")
    waiting = jobs(snakemake(project, "-n", "uma_table4"))
    said = snakemake(project, "plan", config=target)
    written = (project / "results/tiny/plan.md").read_text()
    assert written in said
    total = waiting.pop("total")
    assert f"{total + 1} jobs: 1 done, {total} to run." in written
    found = rows(written)
    assert {rule: int(found[rule][1]) for rule in waiting} == waiting
    assert found["data"][:2] == ["1", "0"]
    assert found["done already: core hours"][1:] == ["100%", "-", "-"]
    states = Counter(line["state"] for line in csv.DictReader((project / "results/tiny/plan.csv").open()))
    assert states == {"done": 1, "to run": total}
    assert jobs(snakemake(project, "-n", "plan", config=target)) == {"plan": 1, "total": 1}, "no plan is up to date"


def test_snakemakes_default_limit_of_jobs_a_second_starts_no_timers_and_ones_own_stays(project: Path) -> None:
    """Each timer of the scheduler looks for ready jobs once more, which takes a core where hundreds are ready."""
    (project / "sitecustomize.py").write_text(
        "import threading\n"
        "start = threading.Timer.start\n"
        "def told(timer):\n"
        "    open('timers', 'a').write('one\\n')\n"
        "    start(timer)\n"
        "threading.Timer.start = told\n"
    )

    def timers(*limit: str) -> int:
        (project / "timers").write_text("")
        target = ["results/tiny/data/digits.safetensors", "--force", "--config", "scale=tiny"]
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *limit, *target]
        subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": str(project)}, check=True)
        return len((project / "timers").read_text().split())

    assert timers() == 0
    assert timers("--max-jobs-per-timespan", "50/1s") > 0
