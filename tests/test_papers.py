"""A paper is a folder: what it may say, what its cells may be derived from, and what a sweep stands for."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_report import cell, rows_of, write_results

from palimpsest.pipeline import configuration, papers
from palimpsest.pipeline.cells import Cell, Plan, Run
from palimpsest.pipeline.configuration import ROOT, load
from palimpsest.pipeline.errors import ConfigError
from palimpsest.report import claims, compare, formats, page, tables
from palimpsest.report.compare import Verdict, derive, judge, two_proportions

PAPERS = ROOT / "config" / "papers"
ROW = dict.fromkeys(papers.COLUMNS, "") | {
    "dataset": "cifar10", "model": "resnet50", "forget": "class_0", "unlearner": "finetune", "attack": "uma",
    "epsilon": "8/255", "metric": "forget_accuracy",
}  # fmt: skip


# What paper.yaml and its CSVs may say


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(about: dict[str, Any]) -> None:
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("tables", "table5", "printed_trial", to=40), "leakage/paper.yaml: tables.table5 has no key 'prin"),
        (_set("tables", "table5", "printed_trial", to=40), "Did you mean 'printed_trials'"),
        (_set("titel", to="x"), "leakage/paper.yaml has no key 'titel'; Did you mean 'title'"),
        (_set("tables", "table55", to={"title": "t", "caption": "c"}), "has table55, but there is no table55.csv"),
        (lambda about: about["tables"].pop("table5"), "no table or figure 'table5'; Did you mean"),
        (lambda about: about.pop("protocol"), "lacks the key 'protocol': what it does"),
        (lambda about: about.pop("layout"), "no layout"),
        (_set("layout", "groups", 1, "label", to="Difference, tree"), "two groups of columns called 'Diff"),
        (_set("figures", "figure5", "kind", to="pies"), "figures.figure5.kind cannot be 'pies': bars, lines"),
        (_set("figures", "figure5", to={"kind": "bars", "title": "t", "caption": "c"}), "lacks the key 'panels'"),
        (_set("figures", "restarts", "sweep", "keywords", "restarts", to=3), "cannot be 3: a list of two values"),
        (_set("claims", 0, "cells", to={"metrik": "x"}), "claims.0.cells has no key 'metrik'; Did you mean 'metric'"),
        (_set("claims", 0, "check", to={"at_least": 1, "at_most": 2}), "claims.0.check cannot be"),
        (_set("claims", 0, "check", to={"tolerance": 1}), "claims.0.check cannot be {'tolerance': 1}: one of at_least"),
        (_set("claims", 0, "check", "at_leest", to=1), "no key 'at_leest'; Did you mean 'at_least'"),
        (_set("claims", 0, "check", "tolerence", to=1), "no key 'tolerence'; Did you mean 'tolerance'"),
        (_set("claims", 0, "table", to="table9"), "claims.0 has no table or figure 'table9'"),
        (_set("checks", "rows", 0, "at_leest", to=1), "no key 'at_leest'; Did you mean 'at_least'"),
    ],
)  # fmt: skip
def test_what_paper_yaml_cannot_mean_ends_in_one_sentence(
    change: Callable[[dict[str, Any]], None], says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "leakage"
    shutil.copytree(PAPERS / "leakage", folder)
    about = yaml.safe_load((folder / "paper.yaml").read_text())
    change(about)
    (folder / "paper.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(ConfigError) as error:
        papers.read(folder)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset,metrik\n", "no column 'metrik'; Did you mean 'metric'"),
        ("dataset,metric\n", "lacks the columns attack, forget, model, note, published, unlearner; it may leave out"),
        ("{head},status\n{row},unreadible\n", "table.csv:2: status is calibrated, not_applicable, unreadable or empty"),
        ("{head},derive\n{row},minus\n", "derive cannot be 'minus'; it takes `minus field=value"),
        ("{head},derive\n{row},highest unlerner\n", "derive cannot be 'highest unlerner'"),
        ("{head},derive\n{row},sd unlearner\n", "derive cannot be 'sd unlearner'"),
        ("{head},derive\n{row},over unlerner=retrain\n", "derive cannot be 'over unlerner=retrain'"),
        ("{head},derive\n{row},highest unlearner of metric=x\n", "derive cannot be 'highest unlearner of metric=x'"),
    ],
)  # fmt: skip
def test_what_a_table_cannot_mean_ends_in_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    head = "dataset,model,forget,unlearner,attack,metric,published,note"
    row = "cifar10,resnet50,class_0,retrain,none,forget_accuracy,,x"
    (tmp_path / "table.csv").write_text(text.format(head=head, row=row))
    with pytest.raises(ConfigError) as error:
        papers.rows(tmp_path / "table.csv", None, {})
    assert says in str(error.value)


# Cells that are derived


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(load(scale="paper"))


def derived(plan: Plan, tmp_path: Path, values: dict[str, list[float]], **row: str) -> compare.Compared:
    """A derived cell over rows that hold `values` for each unlearner and attack, the names separated by a blank."""
    one = plan._cell("uma", "table1", 2, ROW | row)
    for name, of in values.items():
        unlearner, attack = name.split()
        file = tmp_path / Run("cifar10", "resnet50", "class_0" + "-same" * unlearner.count("-"), unlearner).rows
        file.parent.mkdir(parents=True, exist_ok=True)
        measured = cell(attack=attack, epsilon="" if attack == "none" else "8/255")
        with file.open("a") as handle:
            handle.writelines(f"{json.dumps(row)}\n" for row in rows_of(of, measured))
    (found,) = compare.compare([one], tmp_path)
    return found


def test_a_difference_is_taken_repetition_by_repetition(plan: Plan, tmp_path: Path) -> None:
    values = {"finetune uma": [50.0, 70.0, 1.0], "finetune none": [49.0, 67.0]}
    found = derived(plan, tmp_path, values, derive="minus attack=none; epsilon=", published="2")
    assert found.values == {0: 1.0, 1: 3.0} and found.mean == 2.0
    assert found.sd == pytest.approx(2**0.5) and found.verdict == "too wide to tell"
    assert found.half == pytest.approx(12.7062 * 2**0.5 * (1 + 1 / 2) ** 0.5, rel=1e-5), "no bound of a proportion"


def test_the_base_model_that_all_repetitions_begin_from_stands_beside_each(plan: Plan) -> None:
    one = plan._cell("uma", "table1", 2, ROW | {"derive": "minus unlearner=original"})
    base = compare.replace(one.parts[1], alone=True)
    both = [judge(one.parts[0], rows_of([80.0, 90.0])), judge(base, rows_of([95.0], base))]
    assert derive(one, both).values == {0: -15.0, 1: -5.0}
    assert derive(one, both[::-1]).values == {0: 15.0, 1: 5.0}
    assert derive(one, [both[0], judge(one.parts[1], rows_of([95.0], base))]).values == {0: -15.0}
    claim = {
        "says": "x",
        "source": "y",
        "cells": {"unlearner": "finetune"},
        "check": {"no_less_than": {"unlearner": "original"}},
    }
    (found,) = claims.evaluate({"claims": [claim]}, both)
    assert found.reproduced.verdict == "does not hold"


def test_the_highest_of_several_is_its_own_number_and_names_the_winner(plan: Plan, tmp_path: Path) -> None:
    values = {"finetune uma": [10.0, 20.0], "retrain uma": [30.0, 2.0], "salun uma": [11.0, 12.0]}
    several = {"unlearner": "finetune+retrain+salun"}
    best = derived(plan, tmp_path, values, derive="highest unlearner", **several)
    assert (best.mean, best.winner, best.sd) == (16.0, "retrain", pytest.approx(19.79899))
    worst = derived(plan, tmp_path, values, derive="lowest unlearner", **several)
    assert (worst.mean, worst.winner) == (11.5, "salun")
    assert derived(plan, tmp_path, values, **several).mean == pytest.approx((10 + 20 + 30 + 2 + 11 + 12) / 6)


def test_the_best_of_several_may_be_held_against_another(plan: Plan, tmp_path: Path) -> None:
    values = {"finetune uma": [10.0, 20.0], "salun uma": [11.0, 14.0], "retrain uma": [9.0, 12.0]}
    row = {"unlearner": "finetune+salun", "published": "5"}
    best = derived(plan, tmp_path, values, derive="highest unlearner minus unlearner=retrain", **row)
    assert (best.values, best.winner, best.difference) == ({0: 1.0, 1: 8.0}, "finetune", -0.5)
    worst = derived(plan, tmp_path, {}, derive="lowest unlearner over unlearner=retrain", **row)
    assert (worst.values, worst.winner, worst.unit) == ({0: 11 / 9, 1: 14 / 12}, "salun", "×")
    assert [run.unlearner for run in best.cell.runs] == ["finetune", "salun", "retrain"]
    lacking = derived(plan, tmp_path, {}, derive="highest unlearner minus unlearner=l1_sparse", **row)
    assert (lacking.mean, lacking.verdict) == (None, "not run")


def test_seconds_are_not_judged_but_their_ratio_is(plan: Plan, tmp_path: Path) -> None:
    one = plan._cell("uma", "table1", 2, ROW | {"metric": "unlearning_seconds", "published": "30"})
    ratio = plan._cell("uma", "table1", 2, ROW | {"metric": "unlearning_seconds", "derive": "under unlearner=retrain"})
    timed = {"kind": "seconds", "unit": "s", "device": "A processor"}
    own, other = ([row | timed for row in rows_of(values, one, n=0)] for values in ([2.0, 4.0, 0.0], [20.0, 20.0, 7.0]))
    found = judge(one, own)
    assert (found.verdict, found.why) == ("another machine", "measured on another machine: A processor")
    assert (found.mean, found.difference, found.devices) == (2.0, -28.0, ("A processor",))
    speed = derive(ratio, [found, judge(ratio.parts[1], other)])
    assert (speed.values, speed.unit, speed.devices) == ({0: 10.0, 1: 5.0}, "×", ("A processor",))
    share = derive(compare.replace(ratio, derive="over unlearner=retrain", published=0.2), [found, judge(one, other)])
    assert share.values == {0: 0.1, 1: 0.2} and share.verdict == "agrees"
    assert derive(compare.replace(one, derive="sd"), [found]).verdict == "another machine"
    layout = plan.papers["uma"]["layout"]
    metrics = layout["metrics"] | {"unlearning_seconds": {"column": "UA", "says": "seconds"}}
    table = tables.arrange({**plan.papers["uma"], "layout": layout | {"metrics": metrics}}, "paper", [found])
    assert "Seconds were measured on A processor." in table.footnotes


def test_a_paper_whose_tables_all_bring_a_layout_needs_none_of_its_own(plan: Plan, tmp_path: Path) -> None:
    about = plan.papers["uma"]
    found = compare.compare(plan.tables["uma", "table1"], tmp_path)
    own = about["tables"] | {"table1": {**about["tables"]["table1"], "layout": about["layout"]}}
    apart = {key: value for key, value in about.items() if key != "layout"} | {"tables": own}
    assert tables.arrange(apart, "demo", found) == tables.arrange(about, "demo", found)


def test_the_best_of_several_chains_is_named_by_the_steps_in_which_they_differ(plan: Plan, tmp_path: Path) -> None:
    values = {"retrain-finetune uma": [10.0, 20.0], "retrain-salun uma": [11.0, 22.0]}
    several = {"unlearner": "retrain-finetune+retrain-salun", "forget": "class_0-same"}
    assert derived(plan, tmp_path, values, derive="highest unlearner", **several).winner == "salun"


def test_the_best_of_several_is_not_told_before_all_were_run(plan: Plan, tmp_path: Path) -> None:
    values = {"finetune uma": [10.0, 20.0]}
    found = derived(plan, tmp_path, values, unlearner="finetune+retrain", derive="highest unlearner")
    assert (found.mean, found.verdict, found.winner) == (None, "not run", "")


def test_a_standard_deviation_is_held_against_a_printed_one_of_as_many_trials(plan: Plan, tmp_path: Path) -> None:
    found = derived(plan, tmp_path, {"finetune uma": [10.0, 20.0, 30.0]}, derive="sd", published="9")
    assert (found.mean, found.sd, found.difference, found.verdict) == (10.0, None, 1.0, "no interval")
    of_40 = compare.replace(found.cell, printed_trials=40)
    # F(39, 2) at 97.5% is 39.47: three repetitions of spread 10 agree with up to 62.8, of spread 1 with up to 6.28.
    for gap, published, verdict in (
        (10, 9.0, "too wide to tell"),
        (10, 70.0, "differs"),
        (1, 0.9, "agrees"),
        (1, 7.0, "differs"),
    ):
        ours = judge(of_40.parts[0], rows_of([20.0 - gap, 20.0, 20.0 + gap]))
        one = derive(compare.replace(of_40, published=published), [ours])
        assert one.verdict == verdict, one.why


def test_a_standard_error_is_held_against_a_printed_one_as_if_of_as_many_trials(plan: Plan, tmp_path: Path) -> None:
    values = [0.0] * 20 + [100.0] * 20
    found = derived(plan, tmp_path, {"finetune uma": values}, derive="se", published="8")
    assert found.mean == pytest.approx(statistics.stdev(values) / 40**0.5)
    ours = judge(found.cell.parts[0], rows_of(values))
    for trials, published, verdict in ((40, 8.0, "agrees"), (40, 4.0, "differs"), (10, 16.0, "too wide to tell")):
        one = derive(compare.replace(found.cell, printed_trials=trials, published=published), [ours])
        assert one.verdict == verdict, one.why


def test_what_a_derived_cell_needs_is_computed(plan: Plan) -> None:
    own = Plan(plan.config)
    row = ROW | {"unlearner": "finetune+salun", "derive": "highest unlearner"}
    minus = ROW | {"derive": "minus attack=uma_unseen"}
    own.__dict__["items"] = {("uma", "x"): [own._cell("uma", "x", 2, row), own._cell("uma", "x", 3, minus)]}
    assert own.attacks_of(Run("cifar10", "resnet50", "class_0", "finetune")) == ["uma", "uma_unseen"]
    assert [run.unlearner for run in own.runs("uma")] == ["finetune", "salun"]


def test_a_derived_cell_of_which_a_part_diverged_is_not_judged(plan: Plan, tmp_path: Path) -> None:
    one = plan._cell("uma", "table1", 2, ROW | {"derive": "minus unlearner=retrain", "published": "1"})
    whole, lost = judge(one.parts[0], rows_of([1.0, 2.0])), {"repetition": 1, "status": "diverged"}
    assert derive(one, [whole, judge(one.parts[1], [*rows_of([1.0], one.parts[1]), lost])]).verdict == "diverged"


def test_a_defense_is_held_against_what_it_defends_at_its_own_rate_and_under_the_strongest_attack(
    plan: Plan, tmp_path: Path
) -> None:
    """Half the rate alone lowers UA, and images that were made elsewhere find what is left at the full one."""
    planted = {
        ("random_label_published_rate", "uma"): 40.0, ("random_label_published_rate", "uma_strong"): 41.0,
        ("adversarial", "uma"): 9.0, ("adversarial", "uma_strong"): 9.5, ("adversarial", "uma_transfer"): 30.0,
        ("random_label_half_rate", "uma"): 10.0, ("random_label_half_rate", "uma_strong"): 12.0,
        ("adversarial_half_rate", "uma"): 9.0, ("adversarial_half_rate", "uma_strong"): 9.5,
        ("adversarial_half_rate", "uma_transfer"): 11.0,
    }  # fmt: skip

    def change(run: Run, row: dict[str, Any]) -> dict[str, Any]:
        value = planted.get((run.unlearner, row["attack"]))
        there = row["metric"] == "forget_accuracy" and row["epsilon"] == "8/255" and value is not None
        return row | {"value": value} if there else row

    results = write_results(plan, tmp_path, change=change)
    found = compare.compare(plan.tables["uma", "table4"], results)
    about = plan.papers["uma"]
    of = [one for one in about["claims"] if one.get("table") == "table4" and "TA" not in one["says"]]
    verdicts = [one.reproduced.verdict for one in claims.evaluate(about | {"claims": of}, found)]
    assert verdicts == ["holds", "does not hold", "does not hold"], "UMA alone; any attack; any attack at half the rate"


# Two proportions of attempts


def test_the_interval_of_two_proportions_is_newcombes() -> None:
    # Newcombe (1998), Table II, method 10
    for (a, m, b, n), (low, high) in {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (10, 10, 0, 20): (0.6791, 1.0),
        (10, 10, 0, 10): (0.6075, 1.0),
    }.items():
        assert two_proportions((a, m), (b, n)) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def attempts(values: list[float], one: Cell, n: int = 20) -> compare.Compared:
    return judge(one, [row | {"kind": "attempts"} for row in rows_of(values, one, n=n)])


def test_a_proportion_of_attempts_is_held_against_a_printed_one_of_attempts() -> None:
    one = cell(published=80.0, printed_trials=70)
    near, far = attempts([60.0, 70.0, 65.0], one), attempts([50.0, 60.0, 55.0], one)
    assert near.successes == (39.0, 60) and near.verdict is Verdict.AGREES
    assert far.successes == (33.0, 60) and far.verdict is Verdict.DIFFERS
    assert "difference of two proportions from -0." in far.why
    assert judge(one, rows_of([60.0, 70.0, 65.0], one, n=20)).successes is None


@pytest.mark.parametrize(
    ("with_attack", "verdict"),
    [([95.0, 95.0], "holds"), ([65.0, 75.0], "cannot tell"), ([10.0, 10.0], "does not hold")],
)
def test_a_claim_of_attempts_is_decided_by_the_interval_of_their_difference(
    with_attack: list[float], verdict: str
) -> None:
    one, other = cell(published=None), cell(epsilon="16/255", published=None)
    check = {"no_less_than": {"epsilon": "16/255"}, "proportions": True}
    about = {"claims": [{"says": "s", "source": "t", "cells": {"epsilon": "8/255"}, "check": check, "ours": True}]}
    found = [attempts(with_attack, one), attempts([60.0, 60.0], other)]
    assert claims.evaluate(about, found)[0].reproduced.verdict == verdict


# Sweeps


def general(scale: str) -> dict[str, Any]:
    """config.yaml merged with its scale, without anything that some paper's folder says."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "config.yaml").read_text()) | {"scale": scale}
    configuration._update(config, yaml.safe_load((ROOT / "config" / "scales" / f"{scale}.yaml").read_text()))
    return config


@pytest.mark.parametrize("scale", ["demo", "laptop", "paper"])
def test_the_general_configuration_and_the_papers_parts_make_the_whole(scale: str) -> None:
    without = general(scale)
    assert not without["attacks"] and not without["requests"] and "adversarial" not in without["unlearners"]
    whole = configuration.resolve(without)
    assert whole == load(scale=scale)
    assert configuration.resolve(whole) == whole, "a configuration that was filled and cut stays as it is"


def test_what_the_configuration_says_itself_is_not_the_papers_to_change(plan: Plan) -> None:
    config = configuration.load(scale="paper", gpu=0)
    config["attacks"]["uma"] = {"steps": 7}
    assert papers.fill(config)["attacks"]["uma"] == {**plan.config["attacks"]["uma"], "steps": 7}


def test_two_papers_cannot_give_one_name_to_two_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for paper, classes in (("one", [0]), ("other", [1])):
        (tmp_path / "papers" / paper).mkdir(parents=True)
        part = {"requests": {"class_0": {"classes": classes}, "class_2": {"classes": [2]}}}
        (tmp_path / "papers" / paper / "config.yaml").write_text(yaml.safe_dump(part))
    monkeypatch.setattr(papers, "PAPERS", tmp_path / "papers")
    with pytest.raises(ConfigError, match=r"requests.class_0 is .* in one paper and .* in another"):
        papers.fill({"scale": "demo", "requests": {}})


def test_two_papers_may_say_how_fast_a_network_of_their_own_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for paper in ("one", "other"):
        (tmp_path / "papers" / paper).mkdir(parents=True)
        part = {"plan": {"speed": {"cpu": {paper: {"images_per_second": 7}}}}}
        (tmp_path / "papers" / paper / "config.yaml").write_text(yaml.safe_dump(part))
    monkeypatch.setattr(papers, "PAPERS", tmp_path / "papers")
    assert set(papers.fill({"scale": "demo", "plan": {}})["plan"]["speed"]["cpu"]) == {"one", "other"}


def test_a_sweep_stands_for_the_entries_that_are_named_after_it(plan: Plan) -> None:
    attacks = plan.config["attacks"]
    assert attacks["inversion_white_box_restarts_1"] == {"method": "inversion_white_box", "restarts": 1}
    small = {"method": "inversion_white_box", "l2_weight": 1e-2, "tv_weight": 1e-2}
    assert attacks["inversion_white_box_weight_1e2"] == small
    assert "label_leakage_size_20" in attacks and "label_leakage_size_100" not in attacks, "which the entry has itself"
    for figure in plan.papers["leakage"]["figures"].values():
        if sweep := figure.get("sweep"):
            field, name, _ = papers.swept(sweep)
            for variant, entry in papers.expand(name, plan.config[f"{field}s"][name], sweep).items():
                assert plan.config[f"{field}s"][variant] == entry, variant


def test_the_cells_of_a_sweep_are_in_its_order_and_stand_at_their_values(plan: Plan) -> None:
    sweep = plan.papers["leakage"]["figures"]["restarts"]["sweep"]
    names = [f"inversion_white_box{end}" for end in ("_restarts_1", "")]
    assert papers.places(sweep, plan.config) == dict(zip(names, (1, 5), strict=True))
    assert [cell.attack for cell in plan.figures["leakage", "restarts"]] == names * 4


def test_a_variant_of_a_variant_keeps_what_that_one_changed() -> None:
    entry = {"method": "uma", "images": "unseen", "also_in": "uma_table1"}
    made = papers.expand("uma_unseen", entry, {"attack": "uma_unseen", "keywords": {"steps": [1, 20]}})
    assert made["uma_unseen_steps_1"] == {"method": "uma", "images": "unseen", "steps": 1}


def test_the_names_of_a_sweeps_values_are_names() -> None:
    sweep = {"unlearner": "u", "called": "c", "keywords": {"lr": [0.0, 1e-3, 2.5e-2, 2, "kl"]}}
    assert list(papers.expand("u", {}, sweep)) == ["u_c_0", "u_c_1e3", "u_c_2_5e2", "u_c_2", "u_c_kl"]


# A paper is its folder

TOY = {
    "paper.yaml": """
title: A toy paper
cite: Nobody, 2026.
protocol: It forgets a class and looks.
names: {cifar10: CIFAR-10, resnet50: ResNet50, class_9: class 9, finetune: FT, finetune_toy: FT of the toy}
layout:
  groups:
    - {label: All, short: "", cells: {derive: ""}, columns: [UA]}
    - {label: Best, short: best, cells: {derive: highest unlearner}, columns: [UA]}
  places: {UA: 2}
  metrics: {forget_accuracy: {column: UA, says: accuracy on the forgotten images}}
tables: {main: {title: Table 1. Toy, caption: The table shows a toy.}}
figures:
  rates:
    kind: lines
    sweep: {unlearner: finetune_toy, keywords: {lr: [0.01, 0.1]}}
    hue: [metric]
    xlabel: learning rate
    y: UA
    title: Figure 1. Rates.
    caption: The line shows the rates.
claims:
  - {says: It forgets., source: Table 1, cells: {table: main, unlearner: finetune_toy}, check: {at_most: 100}}
""",
    "main.csv": """dataset,model,forget,unlearner,attack,metric,derive,published,note
cifar10,resnet50,class_9,finetune,none,forget_accuracy,,,toy
cifar10,resnet50,class_9,finetune_toy,none,forget_accuracy,,55,
cifar10,resnet50,class_9,finetune+finetune_toy,none,forget_accuracy,highest unlearner,70,
""",
    "rates.csv": """dataset,model,forget,unlearner,attack,metric,published,note
cifar10,resnet50,class_9,finetune_toy,none,forget_accuracy,,toy
""",
    "config.yaml": """
requests: {class_9: {method: classes, classes: [9]}}
unlearners: {finetune_toy: {method: finetune, lr: 0.01}}
scales: {demo: {budgets: {unlearners: {finetune_toy: {epochs: 1}}}}}
""",
    "sections.py": """
def sections(context):
    return [("A section of its own", context.render("own.html.j2", values=context.found))]
""",
    "own.html.j2": "<p>{{ values | length }} cells of {{ about.title }} were <b>compared</b>.</p>\n",
    "checks.py": """
from palimpsest.report.checks import Check

def checks(context):
    return [Check("A toy is never wrong.", 3, ("it was",))]
""",
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan at scale demo with one paper more than there are, which is nothing but its folder."""
    shutil.copytree(PAPERS, tmp_path / "papers")
    shutil.copytree(PAPERS.parent / "scales", tmp_path / "scales")
    (tmp_path / "papers" / "toy").mkdir()
    for name, text in TOY.items():
        (tmp_path / "papers" / "toy" / name).write_text(text)
    monkeypatch.setattr(papers, "PAPERS", tmp_path / "papers")
    return Plan(load(scale="demo"))


def test_a_paper_is_its_folder(toy: Plan, tmp_path: Path) -> None:
    assert [cell.unlearner for cell in toy.figures["toy", "rates"]] == ["finetune_toy", "finetune_toy_lr_1e1"]
    assert "finetune_toy: epochs 1" in map(str, toy.tables["toy", "main"][1].reductions)
    for unlearner, values in (("finetune", [40.0, 50.0]), ("finetune_toy", [60.0, 70.0])):
        one = next(cell for cell in toy.tables["toy", "main"] if cell.unlearner == unlearner)
        file = tmp_path / "results" / one.runs[0].rows
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = rows_of(values, cell(attack="none", epsilon=""))
        file.write_text("".join(f"{json.dumps(row | {'defense': ''})}\n" for row in rows))
    text = page.render(page.contents(toy, "toy", tmp_path / "results"))
    for said in (
        "A section of its own",
        "3 cells of A toy paper were <b>compared</b>",
        "A toy is never wrong",
        "It forgets.",
    ):
        assert said in text
    made, found = tables.of(toy, "toy", "main", tmp_path / "results")
    assert [one.winner for one in found] == ["", "", "finetune_toy"]
    assert "65.0±7.1 FT of the toy ~" in formats.markdown(made)
