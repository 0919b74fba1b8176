"""Figures, over rows that the tests write: what is drawn is what was measured, and the same whenever it is drawn."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from safetensors.numpy import save_file

from palimpsest.pipeline import paths
from palimpsest.pipeline.address import Addresses
from palimpsest.pipeline.cells import Plan, Run
from palimpsest.pipeline.configuration import load
from palimpsest.report import compare, figures, pictures

mpl.use("Agg")
REPETITIONS = 3


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(load(scale="demo"))


@pytest.fixture(scope="module")
def results(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for every figure: of repetition r the value 10 r + 50 or, of many, 0 to 9."""
    root = tmp_path_factory.mktemp("results")
    rows: dict[Run, dict[tuple[str, ...], dict[str, Any]]] = {}
    for (paper, name), cells in plan.figures.items():
        many = plan.papers[paper]["figures"][name]["kind"] in ("distributions", "images")
        for cell in cells:
            for run in cell.runs:
                for metric in (cell.metric, "trivial_asr"):
                    for repetition in range(1 if many else REPETITIONS):
                        row = {
                            "attack": cell.attack, "epsilon": cell.epsilon, "defense": "", "screening": cell.screening,
                            "metric": metric, "value": 10.0 * repetition + 50 if metric != "trivial_asr" else 90.0,
                            "unit": "%", "n": 10, "repetition": repetition, "status": "ok",
                        }  # fmt: skip
                        if many:
                            row |= {"values": [*map(float, range(10))], "classes": [*range(10)], "forgotten": [3]}
                        key = (cell.attack, cell.epsilon, cell.screening, metric, str(repetition), str(many))
                        rows.setdefault(run, {})[key] = row
    for run, found in rows.items():
        file = root / run.rows
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in found.values()))
    (root / "data").mkdir()
    upstream = Addresses(plan)("figure", paper="leakage", figure="figure3").inputs
    for file in [path.removeprefix("results/demo/") for name in ("images", "probed") for path in upstream[name]]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        images = np.arange(10 * 64, dtype=np.uint8).reshape(10, 1, 8, 8)
        save_file(
            {"train/images": images, "train/labels": np.arange(10), "0/images": images.astype(np.float32)}, root / file
        )
    return root


def names(plan: Plan) -> list[str]:
    return [name for paper, name in plan.figures if paper == "leakage"]


def test_there_is_a_figure_for_each_of_the_papers_with_data(plan: Plan) -> None:
    assert {f"figure{number}" for number in range(3, 17)} <= set(names(plan))


def test_every_figure_is_the_same_file_whenever_it_is_drawn(plan: Plan, results: Path) -> None:
    for name in names(plan):
        made = []
        for _ in range(2):
            figure, found = figures.of(plan, "leakage", name, results)
            made.append((figures.saved(figure, "svg"), figures.saved(figure, "pdf"), figures.numbers(found, results)))
            width = figure.get_size_inches()[0]
            plt.close(figure)
            assert width in (figures.COLUMN, figures.PAGE)
        assert made[0] == made[1], name


def test_bars_are_as_high_as_the_means_and_the_papers_numbers_are_where_they_belong(plan: Plan, results: Path) -> None:
    figure, found = figures.of(plan, "leakage", "figure6", results)
    heights = [patch.get_height() for axis in figure.axes for patch in axis.patches if isinstance(patch, Rectangle)]
    assert heights == [60.0] * len(found) and all(one.mean == 60.0 for one in found)
    diamonds = [line.get_ydata()[0] for axis in figure.axes for line in axis.lines if line.get_marker() == "D"]
    assert sorted(diamonds) == sorted(one.cell.published for one in found if one.cell.published is not None)
    plt.close(figure)


def test_the_trivial_attackers_line_stands_in_every_figure_of_success_rates(plan: Plan, results: Path) -> None:
    for name in names(plan):
        figure, found = figures.of(plan, "leakage", name, results)
        if any(one.cell.metric == "asr_class_decisions" for one in found):
            drawn = [text.get_text() for text in (figure.legends or [figure.axes[0].get_legend()])[0].get_texts()]
            assert any("nothing forgotten" in text for text in drawn), name
        plt.close(figure)


def test_an_unlearner_looks_the_same_in_all_variants_and_no_two_look_alike(plan: Plan) -> None:
    assert figures.style(plan, "finetune_adam") == figures.style(plan, "finetune")
    assert len({colour for colour, _, _ in figures.looks().values()}) == len(figures.looks()) == 9


def test_a_method_without_a_look_of_its_own_always_gets_the_same(plan: Plan) -> None:
    assert figures.style(plan, "second_order") == ("#56B4E9", "--", "D")


def test_a_line_of_an_unlearner_has_its_colour_and_marker(plan: Plan, results: Path) -> None:
    about = plan.papers["leakage"]
    own = {**about["figures"]["coefficient"], "hue": ["unlearner"]}
    cells = [cell for cell in plan.figures["leakage", "coefficient"] if cell.forget == "single_class"]
    figure = figures.lines(plan, about, own, compare.compare(cells, results), results)
    drawn = {line.get_label(): (line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    for unlearner, label in (("retrain", "RT"), ("original", "Nothing forgotten")):
        colour, _, marker = figures.style(plan, unlearner)
        assert drawn[label] == (colour, marker)
    plt.close(figure)


def test_the_numbers_of_a_distribution_stand_in_its_csv_one_by_one(plan: Plan, results: Path) -> None:
    figure, found = figures.of(plan, "leakage", "figure10", results)
    plt.close(figure)
    rows = list(csv.DictReader(io.StringIO(figures.numbers(found, results))))
    assert len(rows) == 10 * len(found)
    assert {row["class"] for row in rows if row["label"] == "3"} == {"forgotten"}
    assert {row["class"] for row in rows if row["label"] != "3"} == {"kept"}


def test_pictures_show_what_was_added_and_both_models_answers(plan: Plan, tmp_path: Path) -> None:
    """Of eight images of class 3 the attack turns the sixth; the unlearned model knows the first anyway."""
    clean = np.arange(8 * 64, dtype=np.uint8).reshape(8, 1, 8, 8) % 100 + 50
    added = np.where(np.arange(64).reshape(1, 1, 8, 8) % 2, 8, -4).astype(int)
    moved = np.stack([clean + added, clean + 2 * added]).astype(np.uint8)
    labels, before = np.full(8, 3), np.array([3, 1, 1, 1, 1, 1, 1, 1])
    after = np.array([3, 1, 1, 1, 1, 3, 1, 1])
    answers = {f"0/attacked/uma/{level}/predicted": said for level, said in (("0", before), ("8/255", after))}
    made = {"0/clean": clean, "0/images": moved, "0/labels": labels, "0/targets": np.array([3] * 7 + [2])}
    contents: dict[str, tuple[dict[str, Any], Any]] = {
        "images": ({"train/images": clean}, {"classes": [f"kind {n}" for n in range(10)]}),
        "attacked": (made, {"0": {"epsilons": ["8/255", "16/255"]}}),
        "outputs": (answers, {}),
    }
    for name, files in Addresses(plan)("figure", paper="uma", figure="pictures").inputs.items():
        for file in files if name in contents else ():
            path = tmp_path / str(file).removeprefix("results/demo/")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(contents[name][0], path, {"about": json.dumps(contents[name][1])})
    drawn, _ = figures.of(plan, "uma", "pictures", tmp_path)
    first, second, last = (drawn.axes[row * pictures.SHOWN : (row + 1) * pictures.SHOWN] for row in range(3))
    assert first[0].get_title() == "original: kind 3\nunlearned: kind 1" and last[0].get_title() == "unlearned: kind 3"
    assert [axis.get_title() for axis in last[1:3]] == ["unlearned: kind 3", "unlearned: kind 1"], "then the others"
    assert second[0].get_title() == "times 16"
    assert np.allclose(first[0].images[0].get_array(), clean[5, 0] / 255)
    assert np.allclose(second[0].images[0].get_array(), 0.5 + added[0, 0] / 16)
    assert np.allclose(last[0].images[0].get_array(), moved[0, 5, 0] / 255)
    plt.close(drawn)


def test_requests_are_drawn_with_what_they_take_away_and_both_answers_about_the_image_they_are_aimed_at(
    plan: Plan, tmp_path: Path
) -> None:
    """Of three samples that are asked for, the second changed most."""
    train = np.full((20, 1, 8, 8), 100, dtype=np.uint8)
    train[:, 0, 0, 0] = np.arange(20)
    indices, changes = np.array([4, 9, 17]), np.array([2.0, 8.0, 4.0]) / 255
    sign = np.where(np.arange(64).reshape(1, 8, 8) % 2, 1.0, -0.5)
    submitted = (train[indices] / 255 - changes.reshape(3, 1, 1, 1) * sign).astype(np.float32)
    labels = np.arange(20) % 10
    asked = {"0/indices": indices, "0/images": submitted, "0/labels": labels[indices], "0/aim/indices": np.array([3])}
    answered = {"0/before/predicted": np.arange(8), "0/test/predicted": np.arange(8)[::-1].copy()}
    about = {"classes": [f"kind {n}" for n in range(10)]}
    contents: dict[str, tuple[dict[str, Any], Any]] = {
        "images": ({"train/images": train, "train/labels": labels, "test/images": train[:8] + 50}, about),
        "request": (asked, {}),
        "outputs": (answered, {}),
    }
    for name, files in Addresses(plan)("figure", paper="malicious", figure="requests").inputs.items():
        for file in files if name in contents else ():
            path = tmp_path / str(file).removeprefix("results/demo/")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(contents[name][0], path, {"about": json.dumps(contents[name][1])})
    drawn, _ = figures.of(plan, "malicious", "requests", tmp_path)
    clean, taken, put, aimed = (drawn.axes[row * pictures.SHOWN] for row in range(4))
    titles = [axis.get_title() for axis in (clean, taken, put, aimed)]
    assert titles == ["kind 9", "times 16", "one of 3", "before: kind 3\nafter: kind 4"]
    assert np.allclose(clean.images[0].get_array(), train[9, 0] / 255)
    assert np.allclose(taken.images[0].get_array(), 0.5 + sign[0] / 2, atol=1e-5)
    assert np.allclose(put.images[0].get_array(), submitted[1, 0])
    assert np.allclose(aimed.images[0].get_array(), (train[3, 0] + 50) / 255)
    plt.close(drawn)


def test_of_a_network_that_hides_a_part_the_image_what_it_sees_and_its_answers_are_drawn(
    plan: Plan, tmp_path: Path
) -> None:
    cells = plan.figures["uma", "figure2"]
    assert [cell.attack for cell in cells] == ["uma_pixels", "uma_pixels_retained"]
    run = cells[0].runs[0]
    kept = {
        f"0/pictures/{cell.attack}/{name}": np.full((3, 1, 8, 16), 10 * row + 100 * block, dtype=np.uint8)
        for block, cell in enumerate(cells)
        for row, name in enumerate(("image", "hidden", "wanted", "0", "8/255", "none"))
    }
    path = tmp_path / paths.below("predict", "outputs", **run.names, block=plan.blocks(run)[0])
    path.parent.mkdir(parents=True)
    save_file(kept, path)
    drawn, _ = figures.of(plan, "uma", "figure2", tmp_path)
    rows = [drawn.axes[row * pictures.SHOWN] for row in range(12)]
    assert [axis.get_ylabel() for axis in rows[:6]] == [
        "image", "what is shown", "original", "unlearned", "ε = 8/255", "no bound"
    ]  # fmt: skip
    assert [rows[row].get_title(loc="left") for row in (0, 6)] == ["UMA on the forget set", "UMA on the retain set"]
    levels = [100 * block + 10 * row for block in (0, 1) for row in range(6)]
    assert [float(axis.images[0].get_array()[0, 0]) for axis in rows] == pytest.approx([one / 255 for one in levels])
    assert len(drawn.axes[2].images) == 1 and not drawn.axes[3].images, "three pictures, and room for six"
    plt.close(drawn)


def test_a_field_has_our_number_and_the_papers_in_brackets(plan: Plan, tmp_path: Path) -> None:
    cells = plan.figures["malicious", "figure6"]
    ran = [cell for cell in cells if cell.run]
    for number, cell in enumerate(ran):
        row = {
            "attack": "none",
            "epsilon": "",
            "defense": "",
            "screening": "",
            "metric": cell.metric,
            "unit": "%",
            "n": 1,
        }
        path = tmp_path / cell.runs[0].rows
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row | {"value": 20.0 * number, "repetition": 0, "status": "ok"}) + "\n")
    drawn, _ = figures.of(plan, "malicious", "figure6", tmp_path)
    (axis,) = drawn.axes
    grid = axis.images[0].get_array()
    assert grid.shape == (3, 4) and len(ran) == 7
    down, across = ([one.get_text() for one in ticks] for ticks in (axis.get_yticklabels(), axis.get_xticklabels()))
    assert down == ["ResNet-18", "VGG-16", "MobileNetV2"]
    assert [one.split("\n") for one in across] == [
        *(["crafted on", name] for name in down),
        ["crafted on", "VGG-16 and", "MobileNetV2"],
    ]
    drawn.canvas.draw()
    ends = [one.get_window_extent() for one in axis.get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(ends)), "no label runs into the next"
    said = {tuple(map(int, text.get_position())): text.get_text() for text in axis.texts}  # across, down
    for number, cell in enumerate(ran):
        place = (
            ["resnet18_sgd", "vgg16", "mobilenet_v2"].index(cell.model),
            ["from_resnet18_8", "from_vgg16_8", "from_mobilenet_8", "from_several_8"].index(cell.forget),
        )
        printed = "\n(89)" if place == (2, 0) else ""
        assert grid[place] == 20 * number and said[place[::-1]] == f"{20 * number}{printed}"
    assert said[2, 2].startswith("not run")
    plt.close(drawn)


def test_a_trace_is_a_line_for_each_repetition_and_its_steps_are_written_out(plan: Plan, tmp_path: Path) -> None:
    (cell,) = plan.figures["malicious", "figure4"]
    row = {"attack": "none", "epsilon": "", "defense": "", "screening": "", "metric": cell.metric, "unit": "", "n": 1}
    traces = [[1.0, 0.5, 0.25], [0.9, 0.8, 0.7]]
    path = tmp_path / cell.runs[0].rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps(row | {"value": trace[-1], "repetition": number, "status": "ok", "trace": trace}) + "\n"
            for number, trace in enumerate(traces)
        )
    )
    drawn, found = figures.of(plan, "malicious", "figure4", tmp_path)
    assert [line.get_ydata().tolist() for line in drawn.axes[0].lines] == traces
    rows = [*csv.DictReader(io.StringIO(figures.numbers(found, tmp_path)))]
    assert [float(one["value"]) for one in rows] == [*traces[0], *traces[1]]
    assert [(one["repetition"], one["step"]) for one in rows[2:4]] == [("0", "2"), ("1", "0")]
    plt.close(drawn)


def test_what_was_not_run_is_drawn_as_such_and_stops_nothing(plan: Plan, tmp_path: Path) -> None:
    for name in names(plan):
        if name != "figure3":  # needs the images themselves, which the workflow makes before
            figure, _ = figures.of(plan, "leakage", name, tmp_path)
            assert figures.saved(figure, "svg").startswith(b"<?xml")
            plt.close(figure)
