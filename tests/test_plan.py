"""The plan: Snakemake's graph as it is, schedules that keep their bounds, and figures that say what they rest on."""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml
from test_workflow import TINY, jobs, snakemake

from palimpsest import models
from palimpsest.pipeline import configuration
from palimpsest.pipeline.estimate import GUESSED, MEASURED, SCALED, Costs
from palimpsest.pipeline.plan import Job, critical_path, graph, wall
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
    priority: 7
    params: size=lambda wildcards: int(wildcards.n) * 2
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
# A paper-scale cell, and the params of its jobs as the rules pass them.
TRAIN = {"dataset": "cifar10", "model": "resnet50", "seed": "0"}
CELL = {**TRAIN, "forget": "class_0", "unlearner": "salun"}
RECIPE = {"epochs": 182, "batch_size": 256, "lr": 0.1}
SALUN = {"method": "salun", "keywords": {"epochs": 10}, "recipe": RECIPE}


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return configuration.load(scale="paper")


def record(rule: str, cell: dict[str, str], params: dict[str, Any], seconds: float, **other: Any) -> dict[str, Any]:
    """A job's record on a card at the scale `paper`, where `other` does not say otherwise."""
    made = {"scale": "paper", "rule": rule, "cell": cell, "params": params, "seconds": seconds, "device": "NVIDIA H100"}
    return {**made, "outputs": {"results/paper/x.safetensors": "sha256:"}, **other}


def job(rule: str, cell: dict[str, str], params: dict[str, Any], number: int = 0, **other: Any) -> Job:
    return Job(
        number, rule, cell=cell, params=params, outputs=("results/paper/x.safetensors",), gpus=1, threads=4, **other
    )


def chain(*edges: tuple[int, int], count: int, **about: Any) -> list[Job]:
    """Jobs 0 to `count` - 1, each on one card and core, that wait as `edges` (before, after) say."""
    return [
        Job(n, "x", frozenset(before for before, after in edges if after == n), gpus=1, **about) for n in range(count)
    ]


def test_a_hand_worked_schedule_keeps_order_priority_cards_and_threads() -> None:
    seconds = {0: 2.0, 1: 3.0, 2: 4.0, 3: 1.0}
    diamond = chain((0, 1), (0, 2), (1, 3), (2, 3), count=4)
    assert critical_path(diamond, seconds) == (7.0, [0, 2, 3])
    assert wall(diamond, seconds, 1, 9) == 10
    assert wall(diamond, seconds, 2, 9) == 7
    assert wall(diamond, seconds, 2, 1) == 10, "one core carries one of them at a time"
    # Three ready jobs on two cards: the long one first ends at 4, the long one last at 5.
    first, last = ([Job(n, "x", gpus=1, priority=p) for n, p in enumerate(order)] for order in ((0, 0, 9), (9, 9, 0)))
    assert (wall(first, {0: 1, 1: 2, 2: 4}, 2, 9), wall(last, {0: 1, 1: 2, 2: 4}, 2, 9)) == (4, 5)
    # Jobs without a card run beside those with one, as long as cores are free.
    mixed = [Job(0, "x", gpus=1, threads=4), *(Job(n, "x", threads=2) for n in (1, 2, 3))]
    assert wall(mixed, dict.fromkeys(range(4), 10.0), 1, 8) == 20
    assert wall(mixed, dict.fromkeys(range(4), 10.0), 1, 10) == 10


@pytest.mark.parametrize("seed", range(8))
def test_a_schedule_is_within_its_bounds_and_of_the_best_that_all_orders_give(seed: int) -> None:
    draw = random.Random(seed)
    count, machines = 6, draw.choice([2, 3])
    edges = [pair for pair in itertools.combinations(range(count), 2) if draw.random() < 0.3]
    made, seconds = chain(*edges, count=count), {n: float(draw.randint(1, 9)) for n in range(count)}

    def longest(n: int) -> float:
        return seconds[n] + max((longest(after) for before, after in edges if before == n), default=0.0)

    length, path = critical_path(made, seconds)
    assert length == max(map(longest, range(count))) == sum(seconds[n] for n in path)
    assert all((before, after) in edges for before, after in itertools.pairwise(path))

    def ends(order: tuple[int, ...]) -> float:
        """Each job in turn as early as it can, by a search over start times."""
        start: dict[int, float] = {}
        for n in order:
            ready = max((start[b] + seconds[b] for b, a in edges if a == n), default=0.0)
            for moment in sorted({ready, *(start[o] + seconds[o] for o in start if start[o] + seconds[o] > ready)}):
                points = [moment, *(start[o] for o in start if moment < start[o] < moment + seconds[n])]
                if all(sum(start[o] <= p < start[o] + seconds[o] for o in start) < machines for p in points):
                    start[n] = moment
                    break
        return max(start[n] + seconds[n] for n in order)

    orders = (o for o in itertools.permutations(range(count)) if all(o.index(b) < o.index(a) for b, a in edges))
    best = min(map(ends, orders))
    found = wall(made, seconds, machines, 99)
    total = sum(seconds.values())
    assert max(length, total / machines) <= best <= found <= (2 - 1 / machines) * best
    assert wall(made, seconds, 1, 99) == total and wall(made, seconds, count, 99) == length


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
    assert (start.threads, start.gpus, start.priority, start.params) == (3, 1, 7, {"size": 4})
    assert start.outputs == ("start2.txt",) and (found["end", ""].threads, found["end", ""].gpus) == (1, 0)
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
    costs = Costs(paper, [own], {})
    assert costs.seconds(job("unlearn", CELL, SALUN)) == (spending.Amount(321.0, MEASURED))
    other = costs.seconds(job("unlearn", {**CELL, "seed": "1"}, SALUN))
    assert other == spending.Amount(pytest.approx(321.0), SCALED), "another repetition"
    longer = costs.seconds(job("unlearn", CELL, {**SALUN, "keywords": {"epochs": 30}}))
    assert longer == spending.Amount(pytest.approx(963.0), SCALED), "another budget is not what was measured"
    tiny = costs.seconds(job("unlearn", {**CELL, "dataset": "tiny_imagenet"}, SALUN))
    assert tiny == spending.Amount(pytest.approx(321.0 * 2 * 4), SCALED), "twice the images of four times the pixels"
    for elsewhere in ({"scale": "laptop"}, {"device": "cpu"}):
        assert Costs(paper, [{**own, **elsewhere}], {}).seconds(job("unlearn", CELL, SALUN)).basis != MEASURED
    block = costs.seconds(job("unlearn", {**CELL, "seed": "0-9"}, SALUN))
    assert block.value == pytest.approx(3210.0), "ten repetitions in one job"


def test_a_figure_is_a_guess_as_soon_as_one_of_its_parts_is(paper: dict[str, Any]) -> None:
    speed = paper["plan"]["speed"]["gpu"]["resnet50"]["images_per_second"]
    wanted = job("unlearn", CELL, SALUN)
    # On a CPU an image of salun took twice the time of a trained one of the same network, which is no card's speed.
    narrow = {"dataset": "cifar10_10k", "model": "resnet18_narrow", "seed": "0"}
    cpu = {"scale": "laptop", "device": "cpu"}
    elsewhere = [
        record("train", narrow, {"recipe": {"epochs": 12}}, 120.0, **cpu),
        record("unlearn", {**narrow, "forget": "class_0", "unlearner": "salun"}, SALUN, 200.0, **cpu),
    ]
    assert Costs(paper, [], {}).seconds(wanted) == spending.Amount(pytest.approx(500_000 / speed), GUESSED)
    assert Costs(paper, elsewhere, {}).seconds(wanted) == spending.Amount(pytest.approx(1e6 / speed), GUESSED)
    card = record("train", TRAIN, {"recipe": RECIPE}, 182 * 50_000 / 2500)
    assert Costs(paper, [card], {}).seconds(wanted) == spending.Amount(pytest.approx(500_000 / 2500), GUESSED)
    both = Costs(paper, [card, *elsewhere], {})
    assert both.seconds(wanted) == spending.Amount(pytest.approx(1e6 / 2500), SCALED), "both factors were measured"
    assert Costs(paper, [record("data", {"dataset": "svhn"}, {}, 3.0)], {}).seconds(
        Job(0, "data", cell={"dataset": "mnist"}, outputs=("x",))
    ) == spending.Amount(3.0, SCALED)
    assert Costs(paper, [], {}).seconds(Job(0, "all")).value == 0, "a target runs nothing"


def test_an_attack_counts_the_images_it_is_aimed_at(paper: dict[str, Any]) -> None:
    def images(forget: str, on: str) -> float:
        params = {"on": on, "keywords": {"epsilons": ["8/255", "16/255"], "steps": 100}}
        return Costs(paper, [], {}).work("attack", {**CELL, "forget": forget}, params, 3) / (3 * 2 * 100)

    assert (images("class_0", "forget"), images("class_0", "unseen")) == (5000, 1000)
    assert (images("random_5000", "forget"), images("random_5000", "unseen")) == (5000, 5000)


def test_a_record_that_does_not_say_what_was_done_is_left_out(paper: dict[str, Any], tmp_path: Path) -> None:
    cell = {name: value for name, value in CELL.items() if name != "seed"}
    old = record("evaluate", cell, {"attacks": [], "defenses": {}}, 9.0)
    params = {"attacks": ["uma"], "defenses": {"jpeg": []}, "blocks": ["0", "1-2"]}
    costs = Costs(paper, [old], {})
    assert costs.seconds(job("evaluate", cell, params)).basis == GUESSED
    assert costs.work("evaluate", cell, params, 1) == 3 * (60_000 + 2 * 5000)
    folder = tmp_path / "paper" / "rows"
    folder.mkdir(parents=True)
    (folder / "half.record.json").write_text('{"rule": ')
    (folder / "whole.record.json").write_text(json.dumps({k: v for k, v in old.items() if k != "scale"}))
    assert read_records(tmp_path) == [old]


def test_the_summary_separates_done_from_left_and_its_shares_add_up(paper: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "there.safetensors"
    file.write_bytes(bytes(1000))
    base = Job(0, "train", cell=TRAIN, params={"recipe": RECIPE}, outputs=(str(file),), done=True, gpus=1, threads=4)
    long = {
        **CELL,
        "forget": "classes_4_12_66_72_97_143_149_165_175_190",
        "attack": "uma_wrong_label",
        "defense": "x" * 40,
    }
    made = [
        base,
        job("unlearn", CELL, SALUN, 1, after=frozenset({0})),
        job("attack", long, {"method": "uma", "keywords": {"steps": 9}}, 2, after=frozenset({1})),
    ]
    records = [record("train", TRAIN, {"recipe": RECIPE}, 7200.0), record("unlearn", CELL, SALUN, 3600.0)]
    found = spending.summary(made, Costs(paper, records, {("cifar10", "resnet50"): 10**8}))
    left, done = found["left"], found["done"]
    assert (found["jobs"], done["jobs"], left["jobs"]) == (3, 1, 2)
    assert done["gpu_hours"]["value"] == 2 and done["bytes"] == {
        "value": 1000,
        "shares": {"measured": 1, "scaled": 0, "guess": 0},
    }
    attack = found["rules"]["attack"]["left"]["gpu_hours"]["value"]
    assert left["gpu_hours"]["value"] == pytest.approx(1 + attack)
    assert left["gpu_hours"]["shares"]["measured"] == pytest.approx(1 / (1 + attack))
    assert left["cpu_hours"]["value"] == pytest.approx(4 * left["gpu_hours"]["value"])
    assert [one["basis"] for one in found["critical_path"]["jobs"]] == [MEASURED, GUESSED]
    for row in found["wall"]:
        assert row["value"] == pytest.approx(1 + attack), "a chain gains nothing from cards"
    for figure in (left["gpu_hours"], left["bytes"], found["critical_path"], *found["wall"]):
        assert sum(figure["shares"].values()) == pytest.approx(1)
    text = spending.markdown(found)
    assert "3 jobs: 1 done, 2 to run." in text and max(map(len, text.splitlines())) <= 100
    lines = list(
        csv.DictReader(spending.tidy(made, Costs(paper, records, {("cifar10", "resnet50"): 10**8})).splitlines())
    )
    assert [(line["state"], line["basis"]) for line in lines] == [
        ("done", MEASURED),
        ("to run", MEASURED),
        ("to run", GUESSED),
    ]


def test_the_figure_has_a_bar_a_rule_and_a_point_a_machine(paper: dict[str, Any]) -> None:
    matplotlib.use("Agg")
    found = spending.summary([job("unlearn", CELL, SALUN)], Costs(paper, [], {("cifar10", "resnet50"): 10**8}))
    above, below = spending.draw(found).axes
    assert [label.get_text() for label in above.get_yticklabels()] == ["unlearn"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["1", "4", "16", "64"]


def test_what_is_stated_of_data_sets_and_networks_is_so(paper: dict[str, Any], tmp_path: Path) -> None:
    stated = paper["plan"]["images"]
    assert set(stated) == set(paper["datasets"])
    for name in ("digits", "digit_pairs", "digit_pairs_200"):
        load = import_module(f"palimpsest.data.{configuration.method_of(paper, 'datasets', name)}").load
        images = load(tmp_path, **configuration.keywords_of(paper, "datasets", name))
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
    spec = models.Spec("small_cnn", 10, 1)
    models.save({0: models.create(spec, *[models.torch.ones(1)] * 2, seed=0)}, tmp_path / "model", {0: {}})
    assert 0 <= (tmp_path / "model").stat().st_size - models.size(spec) < 5000, "but for the header"


def test_the_rule_prints_the_plan_of_what_is_left(tmp_path: Path) -> None:
    for name in ("config", "profiles", "workflow", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "warm_start": False}))
    snakemake(tmp_path, "results/tiny/data/digits.safetensors")
    target = ("scale=tiny", "plan={target: uma_table4}")
    waiting = jobs(snakemake(tmp_path, "-n", "uma_table4"))
    said = snakemake(tmp_path, "plan", config=target)
    found = json.loads((tmp_path / "results/tiny/plan.json").read_text())
    left = {rule: row["left"]["jobs"] for rule, row in found["rules"].items() if row["left"]["jobs"]}
    assert {**left, "total": found["left"]["jobs"]} == waiting
    assert found["done"]["jobs"] == 1 and found["done"]["cpu_hours"]["shares"]["measured"] == 1
    assert (tmp_path / "results/tiny/plan.md").read_text() in said
    assert (tmp_path / "results/tiny/plan.svg").read_text().startswith("<?xml")
    states = Counter(line["state"] for line in csv.DictReader((tmp_path / "results/tiny/plan.csv").open()))
    assert states == {"done": 1, "to run": found["left"]["jobs"]}
    assert jobs(snakemake(tmp_path, "-n", "plan", config=target)) == {"plan": 1, "total": 1}, "no plan is up to date"
