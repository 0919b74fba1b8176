"""The report, over rows that the tests write: verdicts, layouts, claims, checks, links, and what is not there."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from scipy import stats

from palimpsest.pipeline import configuration, paths, values
from palimpsest.pipeline.cells import Cell, Plan, Run
from palimpsest.pipeline.configuration import ROOT, load, task_of
from palimpsest.pipeline.errors import ConfigError
from palimpsest.pipeline.provenance import read_records
from palimpsest.pipeline.values import Kind, Missing, Reduction, Status, Why
from palimpsest.report import checks, claims, compare, formats, front, marks, page, records, settings, tables
from palimpsest.report.compare import Compared, interval, judge

survival = page.load(ROOT / "config" / "papers" / "leakage" / "sections.py")

GENERATOR = ("table3", "table3_retained", "gain", "scores", "answers", "never_seen")
TABLES = ("table1", "table2", *GENERATOR, "table4", "memory", "released", "purification")
TRAIN, FORGET, TEST = 5000, 500, 1000
VOID = {"meta", "br", "link", "img", "hr", "input"}
Change = Callable[[Run, dict[str, Any]], dict[str, Any] | None]


def write_results(plan: Plan, root: Path, *, noise: float = 0.05, change: Change | None = None) -> Path:
    """Rows, records, forget sets and data records for every run of the plan, near the published numbers.

    change: what to make of each row of a run; None leaves it out.
    """
    items = [item for (paper, _), item in plan.items.items() if paper == "uma"]
    cells = [part for item in items for cell in item for part in cell.measured if part.run]
    for run in dict.fromkeys(cell.run for cell in cells if cell.run):
        generator, rows = random.Random(str(run)), []
        for repetition in range(plan.config["repetitions"]):
            about = {**vars(run), "repetition": repetition, "seed": str(100 + repetition), "status": "ok"}
            found: dict[tuple[str, str, str, str], float | None] = {}
            for cell in cells:  # a table without a printed number must not hide one that another table has
                if cell.run == run:
                    key = (cell.attack, cell.epsilon, cell.defense, cell.metric)
                    found[key] = found.get(key) if cell.published is None else cell.published
            draws = task_of(plan.config, run.model) == "reconstruction"
            if draws:
                found |= {("none", "", "", f"{of}_mse"): 0.01 for of in ("forget", "retain")}
            else:
                clean = found.get(("none", "", "", "forget_accuracy"))
                clean = 50.0 if clean is None else clean
                found |= {("none", "", "", "retain_accuracy"): 100.0, ("none", "", "", "test_accuracy_full"): clean}
                found[("none", "", "", "forget_accuracy")] = clean
            if run.unlearner != "original" and not draws:
                found[("uma", "0", "", "forget_accuracy")] = clean
                found |= {("uma", e, "", "largest_change_levels"): float(e.split("/")[0]) for e in ("8/255", "16/255")}
                found |= {("uma", "8/255", "", "attack_loss"): 1.5, ("uma", "16/255", "", "attack_loss"): 0.5}
            for other in {key for key in found if key[0].startswith("uma_times") or key[0].startswith("uma_restarts")}:
                found[other] = found["uma", *other[1:]]
            for (attack, epsilon, defense, metric), value in found.items():
                one = 1 if "rate" in metric else 100
                value = one / 2 if value is None else value
                if attack != "none" and epsilon != "0" and metric.endswith(("accuracy", "rate", "test")):
                    value = min(one, max(0, value + generator.gauss(0, noise) * one / 100))
                row = {
                    **about, "attack": attack, "epsilon": epsilon, "defense": defense, "metric": metric,
                    "value": round(value, 6),
                    "unit": "loss" if metric == "attack_loss" else "fraction" if one == 1 else "" if draws else "%",
                    "n": {"retain": TRAIN - FORGET, "test": TEST}.get(metric.split("_")[0], FORGET),
                }  # fmt: skip
                changed = change(run, row) if change else row
                rows += [changed] if changed else []
        file = root / run.rows
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        file.with_suffix(".record.json").write_text("{}\n")
        seconds = {"retrain": 100.0}.get(run.unlearner, 12.5)
        if run.unlearner != "original":
            costs = {"method_seconds": [seconds] * plan.repetitions(run), "peak_memory_mb": 8 * seconds}
            costs |= {"device": "cpu", "forget": FORGET, "rule": "unlearn", "params": {}, "seconds": seconds}
            # The held-out repetition is another's business.
            for block, own in ((plan.blocks(run)[0], {}), (plan.held_out, {"method_seconds": [1e6]})):
                cell = {**run.names, "block": str(block)}
                model = paths.below("unlearn", "model", **cell)
                write_json(root / paths.record_of(model), costs | own | {"cell": cell, "outputs": {model: ""}})
        write_json(root / f"data/{run.dataset}.record.json", {"train": TRAIN, "test": TEST})
    return root


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def paper() -> Plan:
    """The plan of the paper scale: nothing stands in for anything."""
    return Plan(load(scale="paper"))


@pytest.fixture(scope="module")
def demo() -> Plan:
    return Plan(load(scale="demo"))


@pytest.fixture(scope="module")
def full(paper: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(paper, tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def reduced(demo: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(demo, tmp_path_factory.mktemp("demo"))


def texts(plan: Plan, results: Path, table: str = "table1") -> dict[str, str]:
    made, found = tables.of(plan, "uma", table, results)
    return {
        "csv": tables.tidy(found),
        "md": formats.markdown(made),
        "tex": formats.latex(made),
        "html": formats.html(made),
    }


def cell(**changes: Any) -> Cell:
    run = Run("cifar10", "resnet50", "class_0", "finetune")
    fields: dict[str, Any] = {
        "paper": "uma", "table": "table1", "line": 2, "dataset": "cifar10", "model": "resnet50", "forget": "class_0",
        "unlearner": "finetune", "attack": "uma", "epsilon": "8/255", "defense": "", "screening": "",
        "metric": "forget_accuracy",
        "control": "", "published": 90.0, "note": "", "runs": (run,), "missing": None, "reductions": (),
    }  # fmt: skip
    return Cell(**(fields | changes))


def rows_of(values: list[float], one: Cell | None = None, n: int = 10_000, unit: str = "%") -> list[dict[str, Any]]:
    one = one or cell()
    return [
        {"attack": one.attack, "epsilon": one.epsilon, "defense": one.defense, "metric": one.metric,
         "value": value, "unit": unit, "n": n,
         "repetition": k, "seed": str(k), "status": "ok"}
        for k, value in enumerate(values)
    ]  # fmt: skip


# Verdicts


def test_mean_spread_and_prediction_interval_are_those_computed_by_hand() -> None:
    found = judge(cell(published=91.5), rows_of([89.0, 90.0, 91.0]))
    assert (found.mean, found.sd, found.n) == (90.0, 1.0, 3)
    assert found.difference == pytest.approx(-1.5)
    assert found.half == pytest.approx(4.302653 * 1.0 * math.sqrt(4 / 3), rel=1e-6)  # t(0.975, 2) = 4.302653


@pytest.mark.parametrize(
    ("published", "verdict"), [(94.96, "agrees"), (94.98, "differs"), (85.04, "agrees"), (85.02, "differs")]
)
def test_a_number_agrees_up_to_the_edge_of_the_interval_and_not_beyond(published: float, verdict: str) -> None:
    assert judge(cell(published=published), rows_of([89.0, 90.0, 91.0])).verdict == verdict  # 90 ± 4.968


def test_one_repetition_falls_back_on_one_standard_error_of_the_images() -> None:
    found = judge(cell(published=90.3), rows_of([90.0]))
    assert (found.sd, found.verdict) == (None, "agrees")
    assert found.half == pytest.approx(100 * math.sqrt(0.9 * 0.1 / 10_000))  # 0.3
    assert judge(cell(published=90.31), rows_of([90.0])).verdict == "differs"


def test_without_any_spread_one_image_still_lies_within_the_grid() -> None:
    assert judge(cell(published=99.98), rows_of([100.0] * 3, n=5000)).verdict == "agrees"
    assert judge(cell(published=99.96), rows_of([100.0] * 3, n=5000)).verdict == "differs"
    rate = cell(metric="member_rate", published=0.0002)
    assert judge(rate, rows_of([0.0, 0.0], rate, n=5000, unit="fraction")).verdict == "agrees"


def test_a_printed_mean_of_trials_is_held_against_the_mean_of_as_many() -> None:
    t = stats.t.ppf(0.975, 39)
    assert interval(50.0, 10.0, 40, "", None, 40) == pytest.approx(t * 10 * (2 / 40) ** 0.5)
    assert interval(50.0, 10.0, 40, "", None) == pytest.approx(t * 10 * (1 + 1 / 40) ** 0.5)
    trials = {
        name: {cell.printed_trials for cell in Plan(load(scale="paper")).tables["leakage", name]}
        for name in ("table3", "table5", "table7")
    }
    assert trials == {"table3": {1}, "table5": {1}, "table7": {20}}


def test_a_number_of_another_unit_that_was_run_once_has_no_interval() -> None:
    assert judge(cell(), rows_of([90.0], unit="seconds")).verdict == "no interval"
    chosen = compare.replace(cell(), status=Status.CALIBRATED)
    assert judge(chosen, rows_of([90.0, 91.0])).verdict == "calibrated", "whatever the interval"
    reduced = compare.replace(chosen, reductions=(Reduction(Kind.STAND_IN, "dataset", "cifar10", "digits"),))
    assert judge(reduced, rows_of([90.0, 91.0])).verdict == "stand-in"


def test_a_stand_in_is_never_judged_however_close_it_is() -> None:
    found = judge(cell(reductions=(Reduction(Kind.STAND_IN, "dataset", "cifar10", "digits"),)), rows_of([90.0] * 3))
    assert (found.verdict, found.difference, found.why) == ("stand-in", 0.0, "cifar10 → digits")


def test_no_cell_of_the_demo_agrees_or_differs(demo: Plan, reduced: Path) -> None:
    for table in TABLES:
        _, found = tables.of(demo, "uma", table, reduced)
        assert {one.verdict for one in found} <= {
            "stand-in", "not run", "not applicable", "no published value", "unreadable"
        }  # fmt: skip
        assert any(one.verdict == "stand-in" for one in found) == any(one.cell.published is not None for one in found)


@pytest.mark.parametrize(
    ("changes", "rows", "verdict", "why"),
    [
        ({"runs": (), "missing": Missing(Why.NOT_BUILT, "salun")}, False, "not run", "not built yet: salun"),
        ({}, False, "not run", "not run yet"),
        ({"published": None, "status": Status.UNREADABLE, "note": "lost"}, True, "unreadable", "lost"),
        ({"published": None, "note": "not applicable to us"}, True, "no published value", "not applicable to us"),
        ({"published": None, "runs": (), "status": Status.NOT_APPLICABLE, "note": "-"}, False, "not applicable", "-"),
    ],
)  # fmt: skip
def test_a_number_that_is_not_there_says_why(changes: dict[str, Any], rows: bool, verdict: str, why: str) -> None:
    found = judge(cell(**changes), rows_of([90.0, 91.0]) if rows else [])
    assert (found.verdict, found.why) == (verdict, why)


def test_one_diverged_repetition_is_enough_to_withhold_the_verdict() -> None:
    lost = {"repetition": 2, "status": "diverged", "reason": "loss is nan"}
    found = judge(cell(), [*rows_of([90.0, 90.0]), lost])
    assert (found.verdict, found.why, found.n) == ("diverged", "1 of 3 repetitions diverged", 2)
    assert judge(cell(), [lost]).mean is None


# Tables


def test_every_published_number_is_in_the_csv(paper: Plan, full: Path) -> None:
    for table, count in (("table1", 128), ("table2", 135)):
        rows = list(csv.DictReader(io.StringIO(texts(paper, full, table)["csv"])))
        printed = {
            tuple(r[c] for c in ("dataset", "unlearner", "epsilon", "metric")): r["published"]
            for r in rows
            if r["published"]
        }
        assert len(printed) == count
        if table == "table1":
            assert float(printed["cifar10", "finetune", "8/255", "forget_accuracy"]) == 99.96
            assert float(printed["cifar100", "retrain", "", "test_accuracy_full"]) == 70.15
            assert float(printed["tiny_imagenet", "influence_woodfisher", "8/255", "forget_accuracy"]) == 99.94
        else:
            assert float(printed["cifar10", "retrain", "", "forget_accuracy"]) == 93.78
            assert float(printed["tiny_imagenet", "l1_sparse", "16/255", "member_rate"]) == 0.7614


def test_the_csv_carries_mean_spread_difference_and_record(paper: Plan, full: Path) -> None:
    for row in csv.DictReader(io.StringIO(texts(paper, full)["csv"])):
        if not row["mean"]:
            continue
        values = [
            json.loads(line)["value"]
            for line in (full / row["record"].replace(".record.json", ".jsonl")).read_text().splitlines()
            if all(json.loads(line)[key] == row[key] for key in ("attack", "epsilon", "defense", "metric"))
        ]
        assert (int(row["n"]), float(row["mean"])) == (len(values), pytest.approx(sum(values) / len(values), abs=1e-6))
        if row["published"]:
            assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(row["published"]), abs=2e-6)


def test_the_same_rows_give_the_same_bytes_in_any_order(demo: Plan, reduced: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(reduced, other)
    for file in other.rglob("*.jsonl"):
        file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    first, second = texts(demo, reduced), texts(demo, other)
    assert {name: first[name] for name in ("md", "tex")} == {name: second[name] for name in ("md", "tex")}
    assert first == second
    shutil.rmtree(other / "unlearned")  # run times never reach a table
    assert texts(demo, other) == first


def test_markdown_fits_into_a_terminal_of_120_columns(demo: Plan, reduced: Path, paper: Plan, full: Path) -> None:
    for plan, results in ((demo, reduced), (paper, full)):
        for table in TABLES:
            lines = texts(plan, results, table)["md"].splitlines()
            assert max(map(len, lines)) <= 120
            grids = [line for line in lines if line.startswith("|")]
            assert len({line.count("|") for line in grids}) <= 3  # the blocks and their controls are each one shape


@pytest.mark.parametrize(
    "named",
    [
        "CIFAR-10 → digits",
        "UMA: steps 10",
        "FT, RL, l1-sparse, SalUn: epochs 5, tuning repetitions 1, tuning trials 3",
    ],
)
def test_stand_ins_are_named_on_top_of_every_format(demo: Plan, reduced: Path, named: str) -> None:
    made = texts(demo, reduced)
    flat = {name: re.sub(r"[\s>]+", " ", body) for name, body in made.items()}
    assert named.split(" →")[0] in flat["md"].split("## ")[0]
    assert named in flat["md"].split("##")[0]
    assert formats.escape(named) in flat["tex"].split(r"\begin{tabular}")[0]
    assert named in made["html"].split("<table")[0]
    assert all(row["reductions"] for row in csv.DictReader(io.StringIO(made["csv"])) if row["mean"])


def test_nothing_is_announced_as_a_stand_in_at_the_paper_scale(paper: Plan, full: Path) -> None:
    made, _ = tables.of(paper, "uma", "table1", full)
    assert made.banner == ()
    assert "reproduces" not in texts(paper, full)["html"]


def test_a_reduced_budget_alone_is_announced_as_such() -> None:
    cut = Reduction(Kind.BUDGET, "finetune", "epochs", "5")
    assert tables.banner([cell(reductions=(cut,)), cell()], {}) == (
        "Reduced budget. 1 of 2 numbers here do not reproduce a printed one, so they are not judged.",
        "Budgets are reduced: finetune: epochs 5.",
    )


def test_missing_and_diverged_cells_are_printed_as_such_in_every_format(paper: Plan, tmp_path: Path) -> None:
    def change(run: Run, row: dict[str, Any]) -> dict[str, Any] | None:
        if run.unlearner == "finetune":  # diverged as a whole
            return {**{k: row[k] for k in ("repetition", "seed")}, "status": "diverged", "reason": "nan"}
        if run.unlearner == "random_label" and row["epsilon"] == "16/255":  # one number is not there
            return None
        return row

    config = json.loads(json.dumps(load(scale="paper")))
    config["unlearners"].pop("l1_sparse")
    unbuilt = Plan(config)
    results = write_results(paper, tmp_path, change=change)
    for name, text in texts(paper, results).items():
        assert "diverged" in text, name
        assert "not run yet" in text, name
    for name, text in texts(unbuilt, results).items():
        assert "not built yet" in text, name
        assert text.count("not built yet") >= 3, name
        assert re.sub(r"\\_", "_", text).replace("\n", " ").count("l1_sparse") >= 1, name


def test_a_number_of_fewer_repetitions_says_so(paper: Plan, tmp_path: Path) -> None:
    def change(run: Run, row: dict[str, Any]) -> dict[str, Any] | None:
        return None if run.unlearner == "retrain" and row["repetition"] else row

    results = write_results(paper, tmp_path, change=change)
    made, _ = tables.of(paper, "uma", "table1", results)
    assert made.n == 3
    assert "(1)" in formats.markdown(made) and "(1)" in formats.latex(made) and "(1)" in formats.html(made)


def test_latex_escapes_what_it_would_stumble_over() -> None:
    assert (
        formats.escape(r"a_b & 5% → {x}~^\$#")
        == r"a\_b \& 5\% $\rightarrow$ \{x\}$\sim$\textasciicircum{}\textbackslash{}\$\#"
    )


def test_latex_is_ascii_with_balanced_braces_and_full_rows(demo: Plan, reduced: Path) -> None:
    for table in TABLES:
        text = texts(demo, reduced, table)["tex"]
        assert text.isascii()
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        made, _ = tables.of(demo, "uma", table, reduced)
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert text.count(r"\begin{tabular}") == len(made.blocks)
        for line in text.split(r"\midrule", 1)[1].splitlines():
            if line.endswith(r"\\"):
                spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d)\}", line)]
                assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(n - 1 for n in spans) == 1 + len(made.columns), line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles_with_booktabs_alone(demo: Plan, reduced: Path, tmp_path: Path) -> None:
    body = texts(demo, reduced)["tex"]
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\textwidth=6in\\begin{document}\n" + body + "\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large for page" not in done.stdout
    assert not [wide for wide in re.findall(r"Overfull .hbox \(([0-9.]+)pt", done.stdout) if float(wide) > 15]


class TestSettingsInWhichRowsDiffer:
    """They come from the resolved configuration, so a table cannot be silent about them."""

    def said(self, plan: Plan, unlearners: dict[str, Any], **changes: Any) -> str:
        config = plan.config | {"unlearners": plan.config["unlearners"] | unlearners}
        column = [cell(unlearner=name, **changes) for name in unlearners]
        return settings.differ(config, [column], {"one": "One", "other": "Other"})

    def test_one_rate_for_all_is_not_worth_a_word_and_two_are(self, paper: Plan) -> None:
        one, other = {"method": "random_label", "lr": 0.013}, {"method": "finetune", "lr": 0.013, "epochs": 10}
        assert self.said(paper, {"one": one, "other": other}) == ""
        wrapped = {"method": "adversarial", "settings": {"lr": 0.0065}}
        said = self.said(paper, {"one": one, "other": wrapped})
        assert said == "Besides their methods rows differ in these settings: lr is 0.013 for One, 0.0065 for Other."

    def test_a_tuned_value_is_each_ones_own_and_a_setting_of_one_method_is_a_part_of_it(self, paper: Plan) -> None:
        tuned = {"lr": {"tune": [0.01, 0.1]}}
        said = self.said(
            paper, {"one": {"method": "salun", "ratio": 0.2, **tuned}, "other": {"method": "finetune", **tuned}}
        )
        assert "lr is a tuned value for One and Other" in said and "ratio" not in said
        said = self.said(paper, {"one": {"method": "salun", "ratio": 0.2}, "other": {"method": "salun", "ratio": 0.5}})
        assert "ratio is 0.2 for One, 0.5 for Other" in said, "two of one method differ by it"

    def test_what_is_left_to_a_default_differs_from_what_is_set(self, paper: Plan) -> None:
        adam = {"method": "finetune", "optimizer": "adam"}
        said = self.said(paper, {"one": adam, "other": {"method": "random_label", "lr": 0.01}})
        assert "optimizer is adam for One, its default for Other" in said

    def test_attacks_count_where_they_share_a_column(self, paper: Plan) -> None:
        names = {"uma": "UMA", "uma_strong": "longer"}
        columns = [[cell(attack="uma")], [cell(attack="uma_strong")]]
        assert settings.differ(paper.config, columns, names) == ""
        said = settings.differ(paper.config, [[one for column in columns for one in column]], names)
        assert "restarts is 1 for UMA, 4 for longer" in said

    def test_it_stands_below_the_table(self, paper: Plan, full: Path) -> None:
        assert all("lr is 0.013 for RL (full rate) and RL + eq. 5, 0.0065 for" in " ".join(text.split())
                   for kind, text in texts(paper, full, "table4").items() if kind != "csv")  # fmt: skip


def test_a_metric_without_a_column_is_refused(demo: Plan) -> None:
    with pytest.raises(ConfigError, match="has no column for fid"):
        tables.arrange(demo.papers["uma"], "demo", [judge(cell(metric="fid"), [])])


def test_two_cells_in_one_place_are_refused(demo: Plan) -> None:
    both = [judge(cell(metric=metric), []) for metric in ("member_rate", "member_rate_full_test")]
    with pytest.raises(ConfigError, match="two cells"):
        tables.arrange(demo.papers["uma"], "demo", both)


# The page


class Balance(HTMLParser):
    """Collects links and ids, and fails on a tag that closes what is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.numbers, self.linked = 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given["href"] or ""] if "href" in given else []
        self.ids += [given["id"] or ""] if "id" in given else []
        assert tag not in ("script", "link") and "src" not in given, f"{tag} fetches something"
        if given.get("class") == "ours":
            self.numbers += 1
            self.linked += "a" in self.open
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def parse(text: str) -> Balance:
    found = Balance()
    found.feed(text)
    found.close()
    assert not found.open
    return found


def test_a_chain_is_named_by_its_steps() -> None:
    names = {"salun": "SalUn", "class_0": "class 0", "retrain+salun": "average"}
    assert values.named("salun-finetune", names) == "SalUn, then finetune"
    assert values.named("class_0-same", names) == "class 0" and values.named("retrain+salun", names) == "average"
    assert values.named("salun-salun+retrain", names) == "SalUn, then SalUn, retrain"


def test_no_footnote_is_empty_or_stands_twice(demo: Plan, reduced: Path) -> None:
    for paper, table in demo.tables:
        found = formats.notes(tables.of(demo, paper, table, reduced)[0])
        assert len(set(found)) == len(found) > 0 and all(re.search(r"[\w)%”]\.$", one) for one in found), found


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_html_is_well_formed_and_every_number_links_to_an_existing_record(
    scale: str, request: pytest.FixtureRequest
) -> None:
    plan: Plan = request.getfixturevalue(scale)
    results: Path = request.getfixturevalue({"demo": "reduced", "paper": "full"}[scale])
    folder = results / "papers" / "uma"
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        for suffix, text in texts(plan, results, table).items():
            (folder / f"{table}.{suffix}").write_text(text)
    for figure in plan.papers["uma"]["figures"]:
        for suffix in ("csv", "pdf", "svg"):
            (folder / f"{figure}.{suffix}").write_text("")
    summaries = []
    for paper in plan.papers:  # the pages link to one another
        found = page.contents(plan, paper, results)
        summaries.append(page.summary(found))
        (results / "papers" / paper).mkdir(exist_ok=True)
        (results / "papers" / paper / "index.html").write_text(page.render(found))
    (results / "index.html").write_text(front.render(summaries))
    for file in sorted(folder.glob("*.html")):
        found = parse(file.read_text())
        assert found.numbers == found.linked > 10
        assert len(set(found.ids)) == len(found.ids)
        links_lead_somewhere(file)
    links_lead_somewhere(results / "index.html")


def links_lead_somewhere(page: Path) -> None:
    for link in (one for one in parse(page.read_text()).links if not one.startswith("https://")):  # a paper's own
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in parse(target.read_text()).ids, link


def test_the_front_page_says_every_claim_of_every_paper_once(demo: Plan, reduced: Path) -> None:
    made = [page.summary(page.contents(demo, paper, reduced)) for paper in demo.papers]
    summaries = json.loads(json.dumps(made))
    text = front.render(summaries)
    for one in summaries:
        assert f'href="papers/{one["paper"]}/index.html">{escape(one["title"])}' in text
        for claim in one["claims"]:
            assert text.count(str(escape(claim["says"]))) == sum(
                claim["says"] == other["says"] for each in summaries for other in each["claims"]
            )
    violated = [{**summaries[0], "violated": ["Every image is an image."]}, *summaries[1:]]
    assert "Do not trust these numbers yet: 1 of" in front.render(violated) and "Do not trust" not in text


def test_the_tables_of_claims_in_a_text_are_those_of_the_summaries(tmp_path: Path) -> None:
    def claim(says: str, verdict: str, printed: str) -> dict[str, str]:
        return {"says": says, "source": "Table 1", "verdict": verdict, "printed": printed}

    found = {
        "demo": [claim("A.", "holds", "holds"), claim("B.", "does not hold", "")],
        "laptop": [claim("B.", "cannot tell", "")],
    }
    for scale, claims_of in found.items():
        write_json(tmp_path / scale / "papers/toy/summary.json", {"claims": claims_of})
    text = "before\n<!-- claims: toy -->\nold\n<!-- end -->\nafter\n"
    filled = front.filled(text, [tmp_path / "demo", tmp_path / "laptop", tmp_path / "paper"])
    assert filled.splitlines()[2:-2] == [
        "| claim | the paper's own numbers | demo | laptop | paper |",
        "|---|---|---|---|---|",
        "| A. (Table 1) | holds | holds | not run | not run |",
        "| B. (Table 1) | ours | **does not hold** | cannot tell | not run |",
    ]
    assert filled.startswith("before\n<!-- claims: toy -->\n|") and filled.endswith("|\n<!-- end -->\nafter\n")
    assert front.filled(filled, [tmp_path / "demo", tmp_path / "laptop", tmp_path / "paper"]) == filled


def test_a_name_that_looks_like_markup_is_text(demo: Plan, reduced: Path) -> None:
    about = {**demo.papers["uma"], "title": "<b>&</b>"}
    plan = Plan(demo.config)
    plan.__dict__["papers"] = {"uma": about}
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in page.render(page.contents(plan, "uma", reduced))


def test_the_page_without_any_rows_is_whole(demo: Plan, tmp_path: Path) -> None:
    text = page.render(page.contents(demo, "uma", tmp_path))
    parse(text)
    assert "Nothing was run yet" in text and "cannot tell" in text and "not checked" in text


def test_violated_checks_stand_before_any_number(demo: Plan, tmp_path: Path) -> None:
    def change(run: Run, row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"value": 20.0} if row["metric"] == "largest_change_levels" else {})

    text = page.render(page.contents(demo, "uma", write_results(demo, tmp_path, change=change)))
    assert text.index("Do not trust") < text.index('class="figures"') < text.index("<table")
    assert "20 %, not at most 8" in text


def test_costs_are_shares_of_retraining_and_the_held_out_repetition_does_not_count(demo: Plan, reduced: Path) -> None:
    _, found = tables.of(demo, "uma", "table1", reduced)
    runs = [one.cell.run for one in found if one.cell.run]
    made = records.costs(read_records(reduced), runs, demo)
    first = {run.unlearner: one for run, one in reversed(made.items())}
    finetune, retrain = first["finetune"], first["retrain"]
    assert (finetune.seconds, finetune.n, finetune.memory, finetune.images) == (12.5, 2, 100.0, FORGET)
    assert (retrain.seconds, retrain.device) == (100.0, "cpu")
    text = page.render(page.contents(demo, "uma", reduced))
    assert "12.5 s</span>" in text and "0.12 ×</span>" in text and "100 MB 0.12 ×" in text


def test_the_page_shows_what_tuning_chose_and_from_what(demo: Plan, reduced: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(reduced, results)
    run = next(run for cell in demo.tables["uma", "table1"] for run in cell.runs if run.unlearner == "l1_sparse")
    trials = [
        {"value": 1e-5, "metrics": [], "gap": 7.25, "status": "ok"},
        {"value": 1e-4, "metrics": [], "gap": 3.5, "status": "ok"},
        {"value": 1e-3, "metrics": [], "gap": None, "status": "diverged: the loss was nan"},
    ]
    write_json(
        results / f"tuned/{run.dataset}/{run.model}/{run.forget}/l1_sparse.json",
        {"chosen": {"alpha": 1e-4}, "edge": False, "retrained": [], "trials": trials},
    )
    (search,) = records.searches(demo, [run], demo.papers["uma"]["names"], results)
    assert search.trials == (("alpha 1e-05", 7.25, False), ("alpha 0.0001", 3.5, True), ("alpha 0.001", None, False))
    assert not search.edge
    text = page.render(page.contents(demo, "uma", results))
    assert "<b>alpha 0.0001: 3.5</b>" in text and "alpha 0.001: diverged" in text and '"tag">at the edge' not in text
    write_json(
        results / f"tuned/{run.dataset}/{run.model}/{run.forget}/l1_sparse.json",
        {"chosen": {"alpha": 1e-3}, "edge": True, "retrained": [], "trials": trials},
    )
    assert '"tag">at the edge' in page.render(page.contents(demo, "uma", results))
    assert "Tuned values" not in page.render(page.contents(demo, "uma", reduced))


@pytest.mark.parametrize(
    ("forget", "retain", "mark"),
    [
        (100.0, 100.0, True),  # as the original
        (97.0, 99.0, True),
        (0.0, 100.0, False),  # as retrained
        (0.0, 20.0, False),  # it forgot and broke: as large a gap as the original's
        (60.0, 100.0, False),
    ],
)
def test_a_row_says_that_it_did_not_forget(
    demo: Plan, tmp_path: Path, forget: float, retain: float, mark: bool
) -> None:
    run = next(run for cell in demo.tables["uma", "table1"] for run in cell.runs if run.unlearner == "salun")
    reference, original = demo.yardsticks(run)

    def write(of: Run, forgotten: float, kept: float) -> None:
        values = {"forget_accuracy": forgotten, "retain_accuracy": kept, "test_accuracy_retained": kept - 5}
        rows = [{"metric": name, "value": value, "unit": "%"} for name, value in values.items()]
        rows.append({"metric": "member_rate", "value": forgotten / 100, "unit": "fraction"})
        common = {"status": "ok", "attack": "none", "defense": "", "repetition": 0}
        file = tmp_path / of.rows
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(common | row) + "\n" for row in rows))

    write(original, 100.0, 100.0)
    write(reference, 0.0, 100.0)
    write(run, forget, retain)
    assert (marks.Mark.KEPT in marks.marks(demo, run, tmp_path)) is mark
    assert not marks.marks(demo, original, tmp_path) and not marks.marks(demo, reference, tmp_path)
    write(original, 0.5, 100.0)
    write(run, 0.5, 100.0)
    assert not marks.marks(demo, run, tmp_path), "an original that hardly differs from retraining tells nothing"


def test_a_row_whose_search_ended_at_an_edge_says_so_in_every_format(demo: Plan, tmp_path: Path) -> None:
    results = write_results(demo, tmp_path)
    run = next(run for cell in demo.tables["uma", "table1"] for run in cell.runs if run.unlearner == "salun")
    write_json(
        results / paths.below("tune", "tuned", **run.names),
        {"chosen": {"lr": 0.1}, "edge": True, "retrained": [], "trials": []},
    )
    made = texts(demo, results)
    assert "SalUn ‡" in made["md"] and "SalUn ‡" in made["html"] and r"SalUn $\ddagger$" in made["tex"]
    rows = list(csv.DictReader(io.StringIO(made["csv"])))
    assert {row["unlearner"] for row in rows if "tuned at the edge" in row["marks"]} == {"salun"}


# Claims


def one_claim(
    check: dict[str, Any], values: list[list[float]], published: list[float | None] | None = None, **more: Any
) -> claims.Claim:
    found = []
    for k, repeated in enumerate(values):
        own = cell(dataset=f"d{k}", published=published[k] if published else 90.0)
        found.append(judge(own, rows_of(repeated, own)))
    about = {"claims": [{"says": "s", "source": "t", "cells": {"attack": "uma"}, "check": check, **more}]}
    return claims.evaluate(about, found)[0]


@pytest.mark.parametrize(
    ("check", "values", "verdict"),
    [
        ({"at_least": 90}, [[90.0, 95.0], [99.0, 99.0]], "holds"),
        ({"at_least": 90}, [[90.0, 95.0], [80.0, 81.0]], "does not hold"),
        ({"at_least": 90}, [[89.0, 95.0], [99.0, 99.0]], "cannot tell"),  # the spread straddles the bound
        ({"at_least": 90}, [[], [99.0, 99.0]], "cannot tell"),  # a cell is missing
        ({"at_least": 90}, [[], [80.0, 80.0]], "does not hold"),  # but one counterexample is enough
        ({"at_least": 90}, [[], []], "cannot tell"),
        ({"at_most": 90}, [[90.0, 80.0], [10.0, 20.0]], "holds"),
        ({"at_most": 90}, [[91.0, 92.0], [10.0, 20.0]], "does not hold"),
        ({"at_most": 50, "most": True}, [[10.0], [20.0], [99.0]], "holds"),
        ({"at_most": 50, "most": True}, [[10.0], [90.0], [99.0]], "does not hold"),
        ({"at_most": 50, "most": True}, [[10.0], [90.0], []], "cannot tell"),
    ],
)  # fmt: skip
def test_a_claim_holds_fails_or_cannot_be_told(check: dict[str, Any], values: list[list[float]], verdict: str) -> None:
    assert one_claim(check, values).reproduced.verdict == verdict


def test_a_claim_is_also_held_against_the_printed_numbers_and_blanks_are_left_out() -> None:
    found = one_claim({"at_least": 90}, [[80.0], [80.0]], [99.0, None])
    assert found.printed is not None
    assert (found.reproduced.verdict, found.printed.verdict) == ("does not hold", "holds")
    assert one_claim({"at_least": 90}, [[99.0]], ours=True).printed is None


def test_a_claim_names_the_numbers_that_decided() -> None:
    found = one_claim({"at_least": 90}, [[95.0, 97.0], [80.0, 82.0]]).reproduced
    assert "1 of 2 cells pass, 1 fail" in found.numbers
    assert "d1" in found.numbers and "81 ± 1.4" in found.numbers


def test_partners_are_compared_repetition_by_repetition() -> None:
    weak, strong = cell(), cell(epsilon="16/255")
    about = {
        "claims": [
            {
                "says": "s",
                "source": "t",
                "cells": {"epsilon": "16/255"},
                "check": {"no_less_than": {"epsilon": "8/255"}},
            }
        ]
    }
    # The repetitions differ by more than the two attacks do; pairing sees through it.
    found = [judge(weak, rows_of([10.0, 90.0], weak)), judge(strong, rows_of([11.0, 91.0], strong))]
    assert claims.evaluate(about, found)[0].reproduced.verdict == "holds"
    found[1] = judge(strong, rows_of([9.0, 91.0], strong))
    assert claims.evaluate(about, found)[0].reproduced.verdict == "cannot tell"
    about["claims"][0]["check"]["tolerance"] = 1  # type: ignore[index]
    assert claims.evaluate(about, found)[0].reproduced.verdict == "holds"
    assert claims.evaluate(about, found[1:])[0].reproduced.verdict == "cannot tell"  # no partner


@pytest.mark.parametrize(
    ("first", "verdict", "says"),
    [
        ([8.0, 9.0], "holds", "1 of 1 cells pass"),
        ([2.0, 3.0], "cannot tell", "not judged, since nothing was learnt (0 of 1 cells pass, 1 fail"),
        ([], "cannot tell", "not judged, since what it presumes cannot be told"),
    ],
)
def test_a_claim_is_judged_where_what_it_presumes_holds(first: list[float], verdict: str, says: str) -> None:
    one, other = cell(), cell(dataset="d1", attack="none", epsilon="", published=1.0)
    found = [judge(one, rows_of([99.0], one)), judge(other, rows_of(first, other))]
    given = [
        {"says": "there is none", "cells": {"dataset": "d1"}, "check": {"at_least": -1}},
        {"says": "nothing was learnt", "cells": {"dataset": "d1"}, "check": {"at_least": 5}},
    ]
    claim = {"says": "s", "source": "t", "cells": {"attack": "uma"}, "check": {"at_least": 90}, "given": given}
    (judged,) = claims.evaluate({"claims": [claim]}, found)
    assert judged.reproduced.verdict == verdict and says in judged.reproduced.numbers
    assert judged.printed is not None and judged.printed.verdict == "holds", (
        "the paper's own numbers are judged as ever"
    )
    with pytest.raises(ConfigError, match="no cell matches"):
        claims.evaluate({"claims": [claim | {"given": [given[0] | {"cells": {"dataset": "d9"}}]}]}, found)


def test_a_diverged_cell_decides_no_claim() -> None:
    own = cell()
    found = judge(own, [*rows_of([99.0], own), {"repetition": 1, "status": "diverged"}])
    about = {"claims": [{"says": "s", "source": "t", "cells": {}, "check": {"at_least": 90}}]}
    assert claims.evaluate(about, [found])[0].reproduced.verdict == "cannot tell"


def test_a_claim_decided_on_stand_ins_says_so(demo: Plan, reduced: Path, paper: Plan, full: Path) -> None:
    for plan, results, stands in ((demo, reduced, True), (paper, full, False)):
        found = [one for table in TABLES for one in tables.of(plan, "uma", table, results)[1]]
        assert {claim.stand_in for claim in claims.evaluate(plan.papers["uma"], found)[:3]} == {stands}


def test_the_papers_claims_over_its_own_numbers(paper: Plan, full: Path) -> None:
    found = [one for table in TABLES for one in tables.of(paper, "uma", table, full)[1]]
    printed = {
        claim.says: claim.printed.verdict for claim in claims.evaluate(paper.papers["uma"], found) if claim.printed
    }
    contradicted = [says for says, verdict in printed.items() if verdict != "holds"]
    assert len(printed) == 15
    assert len(contradicted) == 1 and contradicted[0].startswith(
        "Class-level unlearning generally shows strong robustness"
    )


def test_a_claim_about_no_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="no cell matches"):
        one_claim({"at_least": 1}, [[1.0]], cells={"unlearner": "fientune"})


# Checks before belief


def violations(plan: Plan, results: Path) -> list[str]:
    return [text for check in checks.check(plan, "uma", results) for text in check.violations]


def test_sound_runs_pass_every_check(demo: Plan, reduced: Path) -> None:
    found = checks.check(demo, "uma", reduced)
    assert [(check.status, check.violations) for check in found] == [("passed", ())] * 10
    assert all(check.cases >= 4 for check in found)


def test_without_rows_nothing_is_called_passed(demo: Plan, tmp_path: Path) -> None:
    assert {check.status for check in checks.check(demo, "uma", tmp_path)} == {"not checked"}


CLEAN = {"attack": "none", "metric": "forget_accuracy"}
ATTACKED = {"unlearner": "finetune", "attack": "uma", "metric": "forget_accuracy"}
# What is planted in which rows, and words of the sentence that must report it.
PLANTED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "8.001 %, not at most 8": (
        "beyond epsilon",
        {"metric": "largest_change_levels", "epsilon": "8/255"},
        {"value": 8.001},
    ),
    "0 %, not no less than": ("an attack that is worse", ATTACKED | {"epsilon": "8/255"}, {"value": 0.0}),
    "2.5 loss, not no more than 1.5": (
        "a search that loses its way in the larger ball",
        {"metric": "attack_loss", "epsilon": "16/255"},
        {"value": 2.5},
    ),
    "%, not as much as 9": (
        "an attack that has not converged",
        {"attack": "uma_times_2", "unlearner": "finetune"},
        {"value": 80.0},
    ),
    "7 %, not as much as": ("another start", ATTACKED | {"epsilon": "0"}, {"value": 7.0}),
    "3 %, not at most 1": (
        "a class known after retraining",
        CLEAN | {"unlearner": "retrain", "forget": "class_0"},
        {"value": 3.0},
    ),
    "not as much as 12, give or take": (
        "images known after retraining",
        {"unlearner": "retrain", "forget": "random_tenth", "metric": "test_accuracy_full"},
        {"value": 12.0},
    ),
    "97.9 %, not at least 98": ("an original that does not know", CLEAN | {"unlearner": "original"}, {"value": 97.9}),
    "retained of 5000": ("an overlap", {"metric": "retain_accuracy"}, {"n": TRAIN - FORGET + 1}),
    "asked for 2": ("a repetition too many", {"repetition": 1}, {"repetition": 5}),
}


@pytest.mark.parametrize("says", PLANTED, ids=[what for what, *_ in PLANTED.values()])
def test_a_planted_violation_is_found(demo: Plan, tmp_path: Path, says: str) -> None:
    _, where, planted = PLANTED[says]

    def change(run: Run, row: dict[str, Any]) -> dict[str, Any]:
        return row | planted if where.items() <= row.items() else row

    found = violations(demo, write_results(demo, tmp_path, change=change))
    assert found and any(says in text for text in found), found


@pytest.mark.parametrize(("part", "count"), [("forget", 3), ("forget", 0), ("retain", TRAIN)])
def test_a_forget_set_that_is_not_what_retain_lacks_is_found(demo: Plan, tmp_path: Path, part: str, count: int) -> None:
    def change(run: Run, row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"n": count} if row["metric"] == f"{part}_accuracy" and row["attack"] == "none" else {})

    found = violations(demo, write_results(demo, tmp_path, change=change))
    assert any(f"{count} {'forgotten' if part == 'forget' else 'retained'}" in text for text in found)


# What the report is made of


def test_general_code_names_no_paper_data_set_method_or_metric(demo: Plan) -> None:
    named = set(demo.papers) | {cell.metric for item in demo.items.values() for cell in item}
    named |= {name for section in configuration.SECTIONS for name in demo.config[section]}
    source = ROOT / "src" / "palimpsest"
    for file in [*(source / "report").glob("*.py"), *(source / "pipeline").glob("*.py")]:
        words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not words & named, file.name


def test_the_report_never_imports_torch() -> None:
    code = (
        "import sys; import palimpsest.report.page;"
        "from palimpsest.pipeline.cells import Plan; from palimpsest.pipeline.configuration import load;"
        "from pathlib import Path;"
        "page = palimpsest.report.page; page.render(page.contents(Plan(load(scale='demo')), 'uma', Path('nowhere')));"
        "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src")}, timeout=60)
    assert done.returncode == 0


def test_every_name_that_a_table_prints_is_the_papers(demo: Plan) -> None:
    for paper, about in demo.papers.items():
        names = about["names"]
        cells = [one for (of, _), item in demo.items.items() if of == paper for one in item]
        several = {getattr(one, field) for one in cells for field in ("dataset", "model", "forget")}
        several |= {one.unlearner for one in cells if one.note != "not in the paper"}
        used = {name for each in several - names.keys() for name in re.split(r"[+-]", each)} - {values.SAME}
        assert used <= set(names), paper
        assert len(Counter(names.values())) == len(names), paper


def test_every_cell_of_a_table_has_a_place(paper: Plan, full: Path) -> None:
    for table in TABLES:
        made, found = tables.of(paper, "uma", table, full)
        placed: list[Compared] = [
            one for block in made.blocks for line in block.lines + block.controls for one in line.cells if one
        ]
        assert len(placed) == len(found) == len(paper.tables["uma", table])
        data_sets = list(dict.fromkeys(one.cell.dataset for one in found))
        assert list(dict.fromkeys(block.title for block in made.blocks)) == [
            paper.papers["uma"]["names"][name] for name in data_sets
        ]
    assert compare.matches(replace(cell(), epsilon="0"), {"epsilon": ["", "0"]})


# Where the numbers come from


def _kept(folder: Path, name: str, rule: str, end: float, seconds: float, **more: object) -> None:
    finished = datetime.fromtimestamp(1e9 + end, UTC).isoformat(timespec="milliseconds")
    record = {
        "rule": rule, "finished": finished, "seconds": seconds, "commit": "0123456789ab", "device": "cpu", "cell": {},
        "params": {}, "outputs": {f"results/{folder.name}/{name}": ""}, **more,
    }  # fmt: skip
    (folder / f"{name}.record.json").write_text(json.dumps(record))


def test_the_commits_of_a_page_are_those_of_the_jobs_behind_its_rows(tmp_path: Path) -> None:
    _kept(tmp_path, "a", "train", end=10, seconds=9)
    before = {f"results/{tmp_path.name}/old": ""}
    _kept(tmp_path, "d", "probe", end=1010, seconds=4, commit="ba9876543210-dirty", inputs=before)
    _kept(tmp_path, "old", "train", end=5000, seconds=100)
    kept = read_records(tmp_path)
    found = records.origin(kept, [f"results/{tmp_path.name}/d"])
    assert found.dirty == 1 and found.commits == {"0123456789ab": 1, "ba9876543210-dirty": 1}
    assert records.origin(kept, [f"results/{tmp_path.name}/a"]).commits == {"0123456789ab": 1}


def test_the_page_marks_numbers_of_uncommitted_code(demo: Plan, reduced: Path) -> None:
    run = next(cell.run for cell in demo.tables["uma", "table1"] if cell.run)
    outputs = {f"results/{reduced.name}/{run.rows}": ""}
    record = reduced / "any.record.json"
    for commit in ("0123456789ab", "0123456789ab-dirty"):
        _kept(reduced, "any", "train", end=10, seconds=9, startup_seconds=1.0, commit=commit, outputs=outputs)
        text = page.render(page.contents(demo, "uma", reduced))
        assert f"<code>{commit}</code>" in text and "config.yaml" not in text
        assert ("code that no commit holds" in text) == commit.endswith("-dirty")
    record.unlink()


def test_what_an_original_must_know_is_its_own_data_sets_and_the_strictest_of_those_it_stands_for() -> None:
    plan = Plan(load(scale="paper"))
    (own,) = (one for one in plan.papers["leakage"]["checks"]["rows"] if isinstance(one.get("at_least"), dict))
    measured = {
        Run(name, "lenet", "single_class", "original"): {(0, "none", "", "forget_accuracy"): (90.0, 100, "%")}
        for name in ("mnist", "fashion_mnist", "other")
    }
    bounds = {"mnist": 97.22, "fashion_mnist": 74.02}
    wrong = [said for _, said in checks.rows_hold(own, bounds, plan, measured)]
    assert wrong == ["90 %, not at least 97.22", ""], "nothing is asked of a data set without a bound"
    for scale, bounds in (
        ("laptop", "mnist 97.22, fashion_mnist 74.02, cifar10_10k 72.84"),
        ("demo", "digits 97.22"),
    ):
        (one,) = [
            each for each in checks.check(Plan(load(scale=scale)), "leakage", Path("none")) if bounds in each.says
        ]
        assert one.status == checks.Status.NOT_CHECKED


# What survives of attacks on labels


def _attacked(
    plan: Plan, results: Path, ours: list[float], nothing: list[float], balanced: float, screenings: tuple[str, ...]
) -> list[Compared]:
    """Table V from rows: the tree's rates on every unlearned server and on those that forgot nothing."""
    for cell in plan.tables["leakage", "table5"]:
        for run in cell.runs:
            on = nothing if run.unlearner == "original" else ours
            shared = dict.fromkeys(compare.FIELDS, "")
            shared |= {"attack": "label_leakage", "unit": "%", "n": 10, "status": "ok"}
            values = {
                survival.RATE: on,
                survival.TRIVIAL: [90.0] * len(on),
                survival.BALANCED: [50.0 if on is nothing else balanced] * len(on),
            }
            rows = [
                {**shared, "screening": screening, "metric": metric, "repetition": number, "value": value}
                for screening in screenings
                for metric, of in values.items()
                for number, value in enumerate(of)
            ]
            file = results / run.rows
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare.compare(plan.tables["leakage", "table5"], results)


@pytest.mark.parametrize(
    "ours, nothing, verdict",
    [
        ([97, 98, 99], [90, 91, 90], survival.Verdict.SURVIVES),
        ([96, 98, 99], [95, 98, 100], survival.Verdict.CANNOT_TELL),  # as good where nothing was forgotten
        ([92, 93, 94], [95, 98, 99], survival.Verdict.FAILS),
        ([80, 81, 82], [70, 71, 71], survival.Verdict.FAILS),  # below who says "nothing was forgotten"
        ([91], [80], survival.Verdict.CANNOT_TELL),  # one repetition has no interval,
        ([100, 100, 100], [80, 80, 80], survival.Verdict.SURVIVES),  # a difference that never changes has the grid's
        ([91, 91], [80, 80], survival.Verdict.TOO_WIDE),  # above 90 by less than two repetitions can tell
        ([91, 99, 86], [70, 71, 72], survival.Verdict.TOO_WIDE),
        ([91.5, 91.5, 91.5], [90, 90, 90], survival.Verdict.CANNOT_TELL),  # twice 4.6%, which is 9.2% of two tests
    ],
)
def test_an_attack_survives_where_it_beats_both_rivals_that_know_nothing(
    ours: list[float], nothing: list[float], verdict: str, demo: Plan, tmp_path: Path
) -> None:
    one, fewer = survival.survivals(_attacked(demo, tmp_path, ours, nothing, 50.0, ("tree",)), tmp_path, 10)
    assert one.whole and not fewer.whole and fewer.verdict == verdict
    assert survival.WITHOUT in one.one.cell.unlearner and survival.WITHOUT not in fewer.one.cell.unlearner
    assert one.verdict == verdict and not one.knows
    differences = [a - b for a, b in zip(ours, nothing, strict=True)]
    assert one.nothing is not None and one.nothing.difference == pytest.approx(sum(differences) / len(ours))
    if len(set(differences)) > 1:
        test = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert one.nothing.half == pytest.approx((test.high - test.low) / 2)
    assert one.trivial is not None and one.trivial.rival == 90


def test_an_attack_below_the_trivial_one_may_know_something_by_balanced_accuracy(demo: Plan, tmp_path: Path) -> None:
    found = _attacked(demo, tmp_path, [80, 81, 82], [50, 51, 52], 89.0, ("tree", "tree_sorted"))
    published, mended = (one for one in survival.survivals(found, tmp_path, 10) if one.whole)
    assert published.verdict == survival.Verdict.FAILS and published.knows
    assert mended.one.cell.published is None and mended.one.cell.screening == "tree_sorted"
    assert mended.balanced is not None and mended.balanced.difference == 39


def test_an_attack_that_one_unlearner_decides_stands_there_without_it(demo: Plan, tmp_path: Path) -> None:
    found = _attacked(demo, tmp_path, [97, 98, 99], [90, 91, 90], 50.0, ("tree",))
    for cell in demo.tables["leakage", "table5"]:
        for run in cell.runs:
            file = tmp_path / run.rows
            if run.unlearner == survival.WITHOUT:  # it names the kept classes
                file.write_text(file.read_text().replace('"value": 9', '"value": 1'))
    found = compare.compare(demo.tables["leakage", "table5"], tmp_path)
    one, fewer = survival.survivals(found, tmp_path, 10)
    assert (one.verdict, fewer.verdict) == (survival.Verdict.FAILS, survival.Verdict.SURVIVES)
    assert fewer.one.mean == 98 and fewer.one.cell.published is None


def test_p_values_are_corrected_for_their_number_by_holms_rule(demo: Plan, tmp_path: Path) -> None:
    """Of 36 tests of nothing, two are below 5% by chance; the smallest p counts 36 times, the next 35 times."""
    found = _attacked(demo, tmp_path, [97, 98, 99], [90, 91, 90], 50.0, ("tree",))
    one, _ = survival.survivals(found, tmp_path, 10)
    assert one.trivial and one.nothing
    ps = [0.001, 0.04, 0.03, 0.0013, *[0.5] * 32]
    many = [
        replace(one, trivial=replace(one.trivial, p=first), nothing=replace(one.nothing, p=second))
        for first, second in zip(ps[::2], ps[1::2], strict=True)
    ]
    corrected = [rival.p for each in survival.holm(many) for rival in (each.trivial, each.nothing) if rival]
    assert corrected[:4] == [pytest.approx(p) for p in (0.036, 1.0, 1.0, 0.0455)] and set(corrected[4:]) == {1.0}
    assert many[0].verdict == survival.Verdict.SURVIVES and survival.holm(many)[0].verdict != survival.Verdict.SURVIVES


def test_an_agreement_within_a_wide_interval_tells_nothing_and_a_difference_still_does() -> None:
    """70 ± 20 holds 98.6, as it holds nearly everything; a printed number outside of it differs all the same."""
    wide = [50.0, 90.0, 70.0]
    assert judge(cell(published=98.6), rows_of(wide)).verdict == "agrees", "without a bound"
    for published, verdict in ((98.6, "too wide to tell"), (400.0, "differs")):
        found = judge(replace(cell(published=published), widest_interval=10), rows_of(wide))
        assert found.verdict == verdict and found.half == pytest.approx(99.4, abs=0.1)
    near = judge(replace(cell(published=90.5), widest_interval=10), rows_of([90.0, 90.4, 90.2]))
    assert near.verdict == "agrees" and near.half is not None and 2 * near.half < 10


def test_a_judged_number_stands_beside_half_its_interval() -> None:
    column = tables.Column("UA", "All", "", 2)
    found = judge(cell(published=90.5), rows_of([90.0, 90.4, 90.2]))
    assert formats.printed(found, column) == f"90.50 ±{found.half:.1f}"
    assert formats.printed(judge(cell(published=90.5), []), column) == "90.50"


def test_a_claim_says_on_which_data_sets_it_was_judged() -> None:
    one, other = cell(attack="none", epsilon=""), cell(attack="none", epsilon="", unlearner="retrain")
    claim = {"says": "s", "source": "t", "cells": {}, "check": {"at_least": 1}, "ours": True}
    found = [judge(one, rows_of([90.0, 91.0], one)), judge(other, [])]
    assert claims.evaluate({"claims": [claim]}, found)[0].data_sets == (one.runs[0].dataset,)
    assert claims.evaluate({"claims": [claim]}, found[1:])[0].data_sets == ()
    names = {one.runs[0].dataset: "By its name"}
    assert claims.evaluate({"claims": [claim], "names": names}, found)[0].data_sets == ("By its name",)
