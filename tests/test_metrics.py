"""What is predicted and then measured: each family against a direct computation, and the whole against before."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.svm import SVC
from test_unlearners import flat, samples, tiny_model
from torch import nn

from palimpsest import families, measure, membership, models, predict
from palimpsest.attacks.on_labels import Judgement, Judging
from palimpsest.data import Images, Samples, digits
from palimpsest.defenses import median
from palimpsest.families import MetricError
from palimpsest.metrics import Answers, Outputs, attempts, class_decisions
from palimpsest.requests import Aim, Request, aim_of
from palimpsest.tasks import classification

ROOT = Path(__file__).parents[1]
MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text())
EPSILONS = ("16/255", "64/255")


class Templates(nn.Module):
    """Logits that say how well an image (N, 1, 8, 8) matches the mean image of each class: right four times in five."""

    def __init__(self, data: Samples, sharpness: float, classes: int = 10) -> None:
        super().__init__()
        means = [data.images[data.labels == label].double().mean(0).flatten() for label in range(classes)]
        centred = torch.stack(means) / 255
        self.weight = nn.Parameter(((centred - centred.mean(0)) * sharpness).float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) @ self.weight.T


def noisy(aim: Samples, on: str, seed: int) -> predict.Attacked:
    """An "attack" that needs no gradient: random noise as large as each epsilon, so that every processor makes it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-1, 2, (len(EPSILONS), *aim.images.shape), generator=generator)
    levels = torch.tensor([16, 64])[:, None, None, None, None]
    images = (aim.images.int() + noise * levels).clamp(0, 255).to(torch.uint8)
    targets = torch.randint(10, aim.labels.shape, generator=generator)
    loss = torch.rand(len(EPSILONS), len(aim.labels), generator=generator)
    return predict.Attacked(on, EPSILONS, images, aim.images, aim.labels, targets, loss)


def setting(request: str) -> dict[str, Any]:
    """A model that forgot a class or a tenth, and all that it is asked, in the order of `predict.outputs`."""
    whole = digits.load(Path())
    train, test = (
        Samples(*(part[:count] for part in whole.splits[of])) for of, count in (("train", 600), ("test", 200))
    )
    images = Images({"train": train, "test": test}, whole.classes)
    gone = images.train_labels == 3 if request == "class" else torch.arange(600) % 10 == 7
    forget, retain = (Samples(images.train_images[part], images.train_labels[part]) for part in (gone, ~gone))
    unseen = Samples(*(part[:40] for part in test))
    return {
        "model": Templates(test, 1.0),
        "images": images,
        "forget": forget,
        "retain": retain,
        "attacked": {"noise": noisy(forget, "forget", 1), "noise_unseen": noisy(unseen, "unseen", 2)},
        "defenses": {"median": median.purify},
        "before": Templates(train, 2.0),
    }


def measured(
    asked: dict[str, Any], path: Path, number: int = 0, wanted: set[str] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """The rows of one repetition, through a file."""
    answers, header = predict.outputs(**asked)
    predict.save({number: predict.Predicted(answers, header | {"about": {"seed": "17"}})}, path / "outputs.safetensors")
    return list(measure.measure(predict.read(path / "outputs.safetensors"), wanted, **more))


def only(rows: list[dict[str, Any]], metric: str, attack: str = "none", epsilon: str = "", defense: str = "") -> Any:
    (found,) = [
        row for row in rows if [row[key] for key in ("metric", "attack", "epsilon", "defense")]
        == [metric, attack, epsilon, defense]
    ]  # fmt: skip
    return found


@pytest.fixture(scope="module", params=["class", "tenth"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Any]:
    """A setting and its rows."""
    asked = setting(request.param)
    return request.param, asked, measured(asked, tmp_path_factory.mktemp("outputs"))


# The whole


def test_numbers_are_those_of_the_code_that_measured_while_it_predicted(case: Any) -> None:
    request, _, rows = case
    fields = ("attack", "epsilon", "defense", "metric")
    # That code had the member rate as released alone.
    rows = [row for row in rows if row["metric"] not in ("member_rate", "member_rate_full_test")]
    rows = [row | {"metric": row["metric"].removesuffix("_as_released")} for row in rows]
    found = {tuple(row[field] for field in fields): row for row in rows}
    before = {tuple(row[field] for field in fields): row for row in MEASURED[request]}
    assert found.keys() == before.keys() and len(found) == len(rows)
    for key, row in before.items():
        assert {name: found[key][name] for name in row if name not in ("value", "values")} == {
            name: row[name] for name in row if name not in ("value", "values")
        }, key
        # Processors round differently: what is counted must be equal, what is computed nearly so.
        assert found[key]["value"] == pytest.approx(row["value"], rel=1e-4), key
        assert found[key].get("values", []) == pytest.approx(row.get("values", []), rel=1e-3)


def test_each_row_says_whose_it_is_and_what_its_number_means(case: Any) -> None:
    known = families.metrics(families.declared())
    for row in case[2]:
        assert (row["repetition"], row["seed"], row["status"]) == (0, "17", "ok")
        metric = known[row["metric"]]
        assert (row["unit"], row["kind"], tuple(row["bounds"])) == (metric.unit, metric.kind, metric.bounds)
        low, high = metric.bounds
        assert (low is None or row["value"] >= low) and (high is None or row["value"] <= high)


class TestAttempts:
    """Twelve test images of three classes; the model of before is right about all of them."""

    LABELS = torch.arange(12) % 3
    IMAGES = Images.of(
        ("a", "b", "c"), train=Samples(samples(12).images, LABELS), test=Samples(samples(12).images, LABELS)
    )

    def rows(self, path: Path, indices: list[int], wanted: list[int], wrong: dict[int, int]) -> dict[str, Any]:
        """The measurements through a file, where the model says `wrong[i]` of test image i and else its label."""

        def kept(said: torch.Tensor) -> dict[str, torch.Tensor]:
            return classification.kept(nn.functional.one_hot(said, 3).float(), self.IMAGES.splits["test"], None, False)

        said = torch.tensor([wrong.get(place, label) for place, label in enumerate(self.LABELS.tolist())])
        request = Request(
            torch.tensor([0]), aim=Aim(torch.tensor(indices), torch.tensor(wanted)), trace=torch.tensor([2.0, -1, 1])
        )
        tensors = {
            "forgotten": torch.zeros(3, dtype=torch.bool),
            "parameters": torch.tensor(1),
            **{f"{of}/labels": self.LABELS for of in ("forget", "retain", "test")},
            **{f"before/{name}": tensor for name, tensor in kept(self.LABELS).items()},
            **{f"{of}/{name}": tensor for of in ("forget", "retain", "test") for name, tensor in kept(said).items()},
            **aim_of([request]),
        }
        predict.save({0: predict.Predicted(tensors, {"attacks": {}, "defenses": []})}, path / "outputs.safetensors")
        found = measure.measure(predict.read(path / "outputs.safetensors"), {"attempt_success"})
        return {row["metric"]: row for row in found}

    @pytest.mark.parametrize(
        ("wanted", "wrong", "success", "targeted", "accuracy"),
        [
            (2, {}, 0, 0, 100),
            (2, {4: 2}, 100, 100, 100),
            (2, {4: 0}, 0, 0, 100),  # wrong, and not what was wanted
            (-1, {4: 0}, 100, 100, 100),
            (-1, {1: 0}, 0, 0, 200 / 3),
            (2, {4: 2, 1: 2}, 100, 0, 200 / 3),  # one of the three others of its class
            (2, {4: 2, 0: 2, 3: 2, 6: 2, 9: 2}, 100, 100, 100),  # those of another class
        ],
    )
    def test_an_attempt_succeeds_and_is_targeted_where_its_class_stays(
        self, wanted: int, wrong: dict[int, int], success: float, targeted: float, accuracy: float, tmp_path: Path
    ) -> None:
        rows = self.rows(tmp_path, [4], [wanted], wrong)
        assert (rows["attempt_success"]["value"], rows["attempt_targeted"]["value"]) == (success, targeted)
        assert rows["aimed_class_accuracy"]["value"] == pytest.approx(accuracy, abs=1e-5)
        assert rows["aimed_class_drop"]["value"] == pytest.approx(100 - accuracy, abs=1e-5)
        assert {rows[name]["n"] for name in ("attempt_success", "attempt_targeted")} == {1}
        assert rows["attempt_objective"]["value"] == -1 and rows["attempt_objective"]["trace"] == [2, -1, 1]
        assert rows["attempt_success"]["kind"] == "attempts" and rows["aimed_class_accuracy"]["n"] == 3

    def test_of_several_images_it_is_the_share_that_is_reached(self, tmp_path: Path) -> None:
        rows = self.rows(tmp_path, [4, 0, 3, 8], [2, 1, 1, 0], {4: 2, 0: 1, 3: 1, 9: 2})
        assert rows["attempt_success"]["value"] == 75 and rows["attempt_targeted"]["value"] == 25
        assert rows["attempt_success"]["n"] == 4 and rows["aimed_class_accuracy"]["n"] == 8
        assert rows["aimed_class_accuracy"]["value"] == pytest.approx(700 / 8)

    def test_a_fall_of_ten_points_is_a_collapse_and_one_of_less_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        labels = torch.zeros(41, dtype=torch.int64)
        for wrong, targeted in ((3, 100.0), (4, 0.0)):  # of the 40 beside the aimed one
            said = torch.tensor([1] * (1 + wrong) + [0] * (40 - wrong))
            found = Outputs(
                0,
                tuple(Answers(of, labels, {"predicted": what}) for of, what in (("test", said), ("before", labels))),
                torch.zeros(2, dtype=torch.bool),
                1,
                aim=Aim(torch.tensor([0]), torch.tensor([1])),
            )
            assert "aim" in found.there
            values = {number.metric: number.value for number in attempts.measure(found)}
            assert (
                "attempt_objective" not in values
                and values["attempt_targeted"] == targeted
                and values["aimed_class_drop"] == 2.5 * wrong
            )


def test_without_an_aim_there_are_no_attempts(case: Any) -> None:
    assert not any(row["metric"].startswith("attempt") for row in case[2])


def test_several_repetitions_stand_in_one_file_and_their_rows_come_in_order(tmp_path: Path) -> None:
    first, second = setting("class"), setting("tenth")
    for number, asked in ((2, second), (10, first)):
        alone = [row | {"repetition": 0} for row in measured(asked, tmp_path, number, {"forget_accuracy"})]
        assert alone == measured(asked, tmp_path, 0, {"forget_accuracy"}), "the number changes nothing"
    made = {2: predict.outputs(**second), 10: predict.outputs(**first)}
    predict.save(made, tmp_path / "both.safetensors")
    back = predict.read(tmp_path / "both.safetensors")
    for number, one in made.items():
        assert back[number].tensors.keys() == one.tensors.keys()
        assert all(torch.equal(back[number].tensors[name], tensor) for name, tensor in one.tensors.items())
    rows = list(measure.measure(back))
    assert [row["repetition"] for row in rows] == sorted(row["repetition"] for row in rows)
    assert rows == list(measure.measure(back)), "the order is the same every time"
    assert not any("values" in row for row in rows), "only repetition 0 is shown"


def test_of_the_retained_images_only_what_is_measured_is_kept() -> None:
    asked = setting("class")
    found = predict.outputs(**asked).tensors
    count = len(asked["retain"].labels)
    kept = sum(tensor.numel() * tensor.element_size() for name, tensor in found.items() if name.startswith("retain"))
    assert kept == count * (8 + 8 + 4)
    whole = models.predict(asked["model"], asked["retain"].images)
    assert torch.equal(found["retain/predicted"], whole.argmax(1))
    assert found["retain/true"].tolist() == [row[label] for row, label in zip(
        whole.tolist(), asked["retain"].labels.tolist(), strict=True
    )]  # fmt: skip


def test_what_an_attack_left_is_read_by_repetition_and_of_a_diverged_model_is_nothing(tmp_path: Path) -> None:
    made = setting("class")["attacked"]["noise"]
    parts = {key: getattr(made, key) for key in ("images", "clean", "labels", "targets", "loss")}
    left = {
        3: predict.Predicted(parts, {"on": made.on, "epsilons": list(made.epsilons)}),
        5: predict.Predicted({}, {"on": made.on, "epsilons": [], "diverged": "the loss was nan"}),
    }
    predict.save(left, tmp_path / "attacked.safetensors")
    back = predict.read_attacked(tmp_path / "attacked.safetensors", 3, "cpu")
    assert (back.on, back.epsilons) == (made.on, made.epsilons)
    assert all(torch.equal(getattr(back, key), tensor) for key, tensor in parts.items())
    with pytest.raises(models.Diverged, match="the loss was nan"):
        predict.read_attacked(tmp_path / "attacked.safetensors", 5, "cpu")


# Each family against a direct computation


def answers(asked: dict[str, Any], images: torch.Tensor, defense: str = "", who: str = "model") -> list[list[float]]:
    """Probabilities image by image, without `predict`."""
    purified = asked["defenses"][defense](images) if defense else images
    with torch.no_grad():
        return [asked[who](image[None].float() / 255).softmax(1)[0].tolist() for image in purified]


def share(said: list[list[float]], labels: torch.Tensor, of: Callable[[int], bool] = lambda label: True) -> float:
    pairs = [(int(np.argmax(row)), label) for row, label in zip(said, labels.tolist(), strict=True) if of(label)]
    return 100 * sum(first == second for first, second in pairs) / len(pairs)


def test_accuracies_are_counted(case: Any) -> None:
    request, asked, rows = case
    images, kept = asked["images"], set(asked["retain"].labels.tolist())
    assert only(rows, "retain_accuracy")["value"] == pytest.approx(
        share(answers(asked, asked["retain"].images), asked["retain"].labels), abs=1e-4
    )
    assert not any(row["metric"] == "retain_accuracy" and row["defense"] for row in rows)
    for defense in ("", "median"):
        said = answers(asked, images.test_images, defense)
        for metric, of in (
            ("test_accuracy_full", lambda label: True),
            ("test_accuracy_retained", lambda label: label in kept),
            *((("test_accuracy_forgotten", lambda label: label not in kept),) if request == "class" else ()),
        ):
            row = only(rows, metric, defense=defense)
            assert row["value"] == pytest.approx(share(said, images.test_labels, of), abs=1e-4)
            assert row["n"] == sum(map(of, images.test_labels.tolist()))
        said = answers(asked, asked["forget"].images, defense)
        row = only(rows, "forget_accuracy", defense=defense)
        assert row["value"] == pytest.approx(share(said, asked["forget"].labels), abs=1e-4)
    if request == "tenth":
        assert not any(row["metric"].startswith("test_accuracy_forgotten") for row in rows), "no class is forgotten"


def test_the_model_before_is_measured_on_test_images(case: Any) -> None:
    _, asked, rows = case
    said = answers(asked, asked["images"].test_images, who="before")
    row = only(rows, "test_accuracy_full_before")
    assert row["value"] == pytest.approx(share(said, asked["images"].test_labels)) and row["n"] == 200
    assert row["value"] != only(rows, "test_accuracy_full")["value"]


def test_attacked_images_are_scored_with_their_label_and_with_the_attacks_target(case: Any) -> None:
    _, asked, rows = case
    for attack, made in asked["attacked"].items():
        for index, epsilon in enumerate(("0", *made.epsilons)):
            pixels = made.clean if index == 0 else made.images[index - 1]
            for defense in ("", "median"):
                said, where = answers(asked, pixels, defense), (attack, epsilon, defense)
                row = only(rows, f"{made.on}_accuracy", *where)
                assert row["value"] == pytest.approx(share(said, made.labels), abs=1e-4) and row["n"] == len(said)
                reached = share(said, made.targets)
                assert only(rows, "target_accuracy", *where)["value"] == pytest.approx(reached, abs=1e-4)
            change = max(abs(a - b) for a, b in zip(
                pixels.flatten().tolist(), made.clean.flatten().tolist(), strict=True
            ))  # fmt: skip
            assert only(rows, "largest_change_levels", attack, epsilon)["value"] == change == (0, 16, 64)[index]
            if index:
                mean = sum(made.loss[index - 1].tolist()) / len(made.labels)
                assert only(rows, "attack_loss", attack, epsilon)["value"] == pytest.approx(mean, abs=1e-5)
    own = [row for row in rows if row["metric"] in ("largest_change_levels", "attack_loss")]
    assert not any(row["defense"] for row in own), "these are the attack's own"


def test_the_member_rate_is_that_of_a_machine_fitted_once_on_clean_images(case: Any) -> None:
    _, asked, rows = case
    images, kept = asked["images"], set(asked["retain"].labels.tolist())

    def sure(pixels: torch.Tensor, labels: torch.Tensor, defense: str = "") -> list[list[float]]:
        return [[row[label]] for row, label in zip(answers(asked, pixels, defense), labels.tolist(), strict=True)]

    every = sure(*asked["retain"])
    seen: Counter[int] = Counter()
    turns = []  # which of its class each retained image is
    for label in asked["retain"].labels.tolist():
        turns.append(seen[label])
        seen[label] += 1
    members = [every[place] for place in sorted(range(len(every)), key=lambda place: turns[place])]
    unseen = sure(images.test_images, images.test_labels)
    made = asked["attacked"]["noise"]
    for metric, full in (("member_rate", False), ("member_rate_full_test", True)):
        pairs = zip(unseen, images.test_labels.tolist(), strict=True)
        non_members = [one for one, label in pairs if full or label in kept]
        machine = SVC(C=3, gamma="auto", kernel="rbf")
        features = np.array(members[: len(non_members)] + non_members)
        machine.fit(features, [1] * (len(features) - len(non_members)) + [0] * len(non_members))
        for where, pixels in (
            (("none", "", ""), asked["forget"].images),
            (("none", "", "median"), asked["forget"].images),
            (("noise", "64/255", ""), made.images[1]),
            (("noise", "16/255", "median"), made.images[0]),
        ):
            votes = machine.predict(np.array(sure(pixels, asked["forget"].labels, where[2])))
            assert only(rows, metric, *where)["value"] == pytest.approx(sum(votes) / len(votes), abs=1e-6)
    assert not any(row["metric"].startswith("member") and row["attack"] == "noise_unseen" for row in rows)


def test_of_a_sorted_data_set_the_first_images_are_no_members_to_learn_from() -> None:
    """The network is surer of the first class than of any other, and of what it saw than of what it did not."""
    labels, test = torch.arange(4).repeat_interleave(300), torch.arange(4).repeat_interleave(75)
    generator = torch.Generator().manual_seed(0)

    def told(labels: torch.Tensor, first: float, others: float) -> torch.Tensor:
        noise = 0.02 * torch.randn(len(labels), generator=generator)
        return (torch.where(labels == 0, first, others) + noise).clamp(0, 1)

    retain, unseen = told(labels, 0.98, 0.65), told(test, 0.9, 0.2)
    released = membership.train(retain, labels, unseen, as_released=True)
    alike = membership.train(retain, labels, unseen)
    known, forgotten = told(test[75:], 0.98, 0.65), told(test[75:], 0.9, 0.2)  # of the classes that come later
    assert released(known) == 0.0, "what the network knows by heart is called forgotten"
    assert alike(known) > 0.9 and alike(forgotten) < 0.1 and released(forgotten) < 0.1
    assert membership.balanced(labels, 8).tolist() == [0, 1, 300, 301, 600, 601, 900, 901]
    assert membership.balanced(torch.tensor([2, 2, 2, 0, 2]), 3).tolist() == [0, 1, 3]
    assert membership.balanced(labels, 10_000).tolist() == [*range(1200)]


def test_members_as_released_are_the_first_images(case: Any, tmp_path: Path) -> None:
    _, asked, _ = case
    rows = measured(asked, tmp_path, wanted=["member_rate_as_released"])
    test = Samples(asked["images"].test_images, asked["images"].test_labels)
    sure = [
        [[row[label]] for row, label in zip(answers(asked, part.images), part.labels.tolist(), strict=True)]
        for part in (asked["retain"], test, asked["forget"])
    ]
    kept = torch.isin(test.labels, asked["retain"].labels.unique()).tolist()
    others = [one for one, there in zip(sure[1], kept, strict=True) if there]
    members = sure[0][: len(others)]
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(members + others, [1] * len(members) + [0] * len(others))
    wanted = float(machine.predict(sure[2]).mean())
    assert only(rows, "member_rate_as_released")["value"] == pytest.approx(wanted, abs=1e-6)


def test_an_empty_forget_set_gives_no_number_of_it_and_all_the_others(tmp_path: Path) -> None:
    asked = setting("tenth") | {"attacked": {}}
    asked["forget"] = Samples(*(part[:0] for part in asked["forget"]))
    # The networks of the project answer nothing to nothing; `models.predict` then knows no number of classes.
    rows = measured(asked, tmp_path)
    assert {row["metric"] for row in rows} >= {"retain_accuracy", "test_accuracy_full"}
    assert not any(row["metric"] in ("forget_accuracy", "member_rate") for row in rows)


def test_what_a_figure_shows_is_of_the_first_images_of_each_class(case: Any) -> None:
    request, asked, rows = case
    row, images = only(rows, "max_probability"), asked["images"]
    said = answers(asked, images.test_images)
    wanted = []
    for label in range(10):
        places = [place for place, own in enumerate(images.test_labels.tolist()) if own == label][:20]
        wanted += [(label, max(said[place])) for place in places]
    assert row["classes"] == [label for label, _ in wanted] and row["n"] == len(wanted)
    assert row["values"] == pytest.approx([value for _, value in wanted], rel=1e-3)
    assert row["value"] == pytest.approx(np.mean([value for _, value in wanted]), rel=1e-4)
    assert row["forgotten"] == ([3] if request == "class" else [])


def test_the_number_of_parameters(case: Any) -> None:
    assert only(case[2], "parameters")["value"] == 640


# Attacks on labels


def decided(
    decisions: list[list[int]], truth: list[list[int]], values: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of attacks on labels alone: one attack, `guess`, with one screening, `all`."""
    predicted = {
        number: predict.Predicted(
            {
                "forgotten": torch.tensor(of, dtype=torch.bool), "parameters": torch.tensor(1),
                **{f"{name}/true": torch.ones(1) for name in ("forget", "test", "retain")},
                **{f"{name}/{key}": torch.zeros(1, dtype=torch.int64) for name in ("forget", "test", "retain")
                   for key in ("labels", "predicted")},
            },
            {"attacks": {}, "defenses": []},
        )
        for number, of in enumerate(truth)
    }  # fmt: skip
    judged = {
        number: Judgement({"all": torch.tensor(says, dtype=torch.bool)}, values or {})
        for number, says in enumerate(decisions)
    }
    return [r for r in measure.measure(predicted, {"asr_class_decisions"}, {"guess": judged}) if r["attack"] == "guess"]


def by_metric(rows: list[dict[str, Any]], metric: str) -> list[float]:
    return [row["value"] for row in rows if row["metric"] == metric]


def test_decisions_on_classes_are_scored_as_by_hand() -> None:
    rows = decided([[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    assert by_metric(rows, "asr_class_decisions") == [75, 50, 100]
    assert by_metric(rows, "trivial_asr") == [75, 50, 75]
    assert by_metric(rows, "balanced_accuracy") == [50, 50, 100]
    assert by_metric(rows, "forgotten_f1") == [0, 0.5, 1]
    assert by_metric(rows, "exact_match") == [0, 0, 100]
    assert {row["screening"] for row in rows} == {"all"} and {row["n"] for row in rows} == {4}


def test_decisions_on_classes_agree_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, decisions = (torch.rand(20, 10, generator=generator) < share for share in (0.3, 0.4))
    truth[:, :2] = torch.tensor([True, False])
    rows = decided(decisions.tolist(), truth.tolist())
    for trial in range(20):
        pair = truth[trial].numpy(), decisions[trial].numpy()
        expected = 100 * balanced_accuracy_score(*pair)
        assert by_metric(rows, "balanced_accuracy")[trial] == pytest.approx(expected, abs=1e-4)
        assert by_metric(rows, "forgotten_f1")[trial] == pytest.approx(f1_score(*pair), abs=1e-6)


def test_a_metric_that_is_undefined_gives_no_row() -> None:
    rows = decided([[0, 0], [1, 0]], [[0, 0], [1, 0]])
    assert by_metric(rows, "balanced_accuracy") == [100] and by_metric(rows, "forgotten_f1") == [1]
    assert by_metric(rows, "exact_match") == [100, 100] and by_metric(rows, "trivial_asr") == [100, 50]


def test_decisions_of_other_shapes_and_types_are_refused() -> None:
    yes = torch.ones(3, dtype=torch.bool)
    for decisions, truth in ((yes.long(), yes), (yes, yes.long()), (yes[None], yes[None])):
        with pytest.raises(ValueError, match="bool"):
            class_decisions.scores(decisions, truth)
    with pytest.raises(ValueError, match=r"\(3,\) decisions on \(2,\) classes"):
        class_decisions.scores(yes, yes[:2])


def test_every_target_sees_all_shadows_and_what_it_shows_is_shown_once() -> None:
    truth = {0: torch.tensor([True, False, False]), 1: torch.tensor([False, True, False])}
    seen: dict[int, list[list[float]]] = {}

    def judge(found: Any, at: Judging) -> Judgement:
        seen[at.seed] = [[float(shadow["x"]) for shadow, _ in some] for some in (at.shadows, at.own_shadows)]
        assert torch.equal(at.shadows[1][1], truth[1])
        return Judgement({"all": torch.tensor([True, False, False])}, {})

    found = {number: {"x": torch.tensor(float(number))} for number in truth}
    shadows = [({"x": torch.tensor(7.0 + number)}, truth[number]) for number in truth]
    judged = measure.judge(judge, found, truth, {0: 10, 1: 11}, shadows, shadows[1:])
    assert seen == {10: [[7.0, 8.0], [8.0]], 11: [[7.0, 8.0], [8.0]]} and list(judged) == [0, 1]
    rows = decided([[1, 0, 0]] * 2, [[1, 0, 0], [0, 1, 0]], {"dot_products": (torch.arange(3.0), torch.arange(3))})
    assert by_metric(rows, "asr_class_decisions") == [100, pytest.approx(100 / 3, abs=1e-4)]
    (shown,) = [row for row in rows if "values" in row]
    assert shown["values"] == [0.0, 1.0, 2.0] and shown["forgotten"] == [0] and shown["value"] == 1.0


def test_what_has_a_nan_is_not_judged_and_nobodys_shadow() -> None:
    truth = {number: torch.tensor([True, False]) for number in range(3)}
    found: dict[int, Any] = {
        number: {"x": torch.tensor([1.0, float("nan") if number == 1 else 2.0])} for number in range(3)
    }
    truth[3], found[3] = truth[0], models.Diverged("the heads are not finite")
    seen: list[int] = []

    def judge(found: Any, at: Judging, *, at_most: int) -> Judgement:
        seen.append(min(len(at.shadows), at_most))
        return Judgement({"all": at.truth}, {})

    shadows = [(found[number], truth[number]) for number in truth]
    judged = measure.judge(judge, found, truth, dict.fromkeys(truth, 0), shadows, at_most=5)
    assert str(judged[1]) == "what the attack got out of the server has a nan in x" and judged[3] is found[3]
    assert seen == [2, 2]
    measure.judge(judge, {0: found[0]}, truth, {0: 0}, at_most=5)
    assert seen == [2, 2, 0], "without shadows"


def test_heads_are_counted_one_by_one_beside_who_calls_all_alike() -> None:
    called, gone = torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False])
    judgement = Judgement({"youden": torch.tensor([True, False])}, {}, {"youden": (called, gone)}, {"youden": 10})
    outputs = Outputs(0, (), torch.tensor([True, False]), 1, {"leak": judgement})
    numbers = {one.metric: (one.value, one.n) for one in class_decisions.measure(outputs)}
    assert numbers["asr_head_decisions"] == (75, 4) and numbers["trivial_head_asr"] == (50, 4)
    assert numbers["asr_class_decisions"] == (100, 2) and numbers["shadow_servers"][0] == 10


def test_values_that_an_attack_shows_are_declared_by_it() -> None:
    values = {"hidden_scores": (torch.arange(2.0), torch.arange(2))}
    with pytest.raises(MetricError, match="guess shows 'hidden_scores'; declare it in METRICS of the attack's file"):
        decided([[1, 0]], [[1, 0]], values)
    shows = {"hidden_scores": {"unit": "points", "kind": "mean", "bounds": (0, None), "of": "judged"}}
    judged = {"guess": {0: Judgement({}, values)}}
    rows = measure.measure({0: predict.outputs(**setting("class"))}, set(), judged, shows=shows)
    assert [(row["unit"], row["value"]) for row in rows if row["attack"] == "guess"] == [("points", 0.5)]


# What is not finite is diverged


def diverged_rows(asked: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    try:
        made = predict.outputs(**asked)
    except models.Diverged as reason:
        made = predict.diverged(reason, asked["images"], asked["retain"])
    made.header["about"] = {"seed": "9"}
    predict.save({4: made}, path / "outputs.safetensors")
    back = predict.read(path / "outputs.safetensors")
    judged = {"guess": {4: Judgement({"all": back[4].tensors["forgotten"]}, {})}}
    return list(measure.measure(back, None, judged))


def broken(weight: float) -> models.Network:
    model = tiny_model()
    with torch.no_grad():
        list(model.parameters())[-1].fill_(weight)
    return model


def small(model: nn.Module) -> dict[str, Any]:
    train, test = samples(40), samples(20, 1)
    forget, retain = (Samples(*(part[train.labels.eq(0) == of] for part in train)) for of in (True, False))
    return {
        "model": model,
        "images": Images({"train": train, "test": test}, tuple("abcd")),
        "forget": forget,
        "retain": retain,
    }


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_a_network_that_is_not_finite_is_diverged_and_not_right_about_class_0(weight: float, tmp_path: Path) -> None:
    # argmax of nan is 0: such a network "knew" every image of class 0.
    (row,) = diverged_rows(small(broken(weight)), tmp_path)
    assert (row["repetition"], row["seed"], row["status"]) == (4, "9", "diverged")
    assert "); a smaller step or rate may mend it" in row["reason"] and "value" not in row


def test_a_weight_that_no_output_shows_is_seen(tmp_path: Path) -> None:
    class Masked(Templates):
        def __init__(self) -> None:
            super().__init__(samples(40), 1.0, 4)
            self.unused = nn.Parameter(torch.tensor(float("inf")))

    (row,) = diverged_rows(small(Masked()), tmp_path)
    assert row["reason"].startswith("the network's weights are not finite (unused)")


def test_finite_weights_whose_outputs_overflow_are_diverged(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    assert torch.isfinite(flat(model)).all()
    (row,) = diverged_rows(small(model), tmp_path)
    assert row["status"] == "diverged"
    assert "outputs are not finite for 30 of 30 of the retained images" in row["reason"]


def test_outputs_that_overflow_on_one_set_alone_are_named(tmp_path: Path) -> None:
    class Bright(Templates):
        """Overflows where an image is all white."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels) / (1 - pixels.flatten(1).amin(1, keepdim=True))

    asked = small(Bright(samples(40), 1.0, 4))
    white = torch.full_like(asked["forget"].images, 255)
    labels, loss = asked["forget"].labels, torch.ones(1, len(asked["forget"].labels))
    made = predict.Attacked("forget", ("8/255",), white[None], asked["forget"].images, labels, labels, loss)
    assert only(list(measure.measure({0: predict.outputs(**asked)})), "forget_accuracy")["n"] == 10
    (row,) = diverged_rows(asked | {"attacked": {"uma": made}}, tmp_path)
    assert "not finite for 10 of 10 of attacked/uma/8/255" in row["reason"]
    lost = predict.Attacked("forget", ("8/255",), made.clean[None], made.clean, labels, labels, loss * torch.inf)
    (row,) = diverged_rows(asked | {"attacked": {"uma": lost}}, tmp_path)
    assert row["reason"] == "the loss of uma is not finite"
    (row,) = diverged_rows(asked | {"defenses": {"white": lambda images: torch.full_like(images, 255)}}, tmp_path)
    assert "forget behind white" in row["reason"]


def test_a_server_of_which_an_attack_got_nothing_finite_is_diverged() -> None:
    judged = {"guess": {0: models.Diverged("what the attack got out of the server has a nan")}}
    (row,) = measure.measure({0: predict.outputs(**small(tiny_model()))}, None, judged)
    assert row["status"] == "diverged" and row["reason"].startswith("guess: what the attack got")


# Families


NEW = '''"""The mean of the labels' probabilities."""
from palimpsest.metrics import Number

NEEDS = ("forget",)
METRICS = {{"{name}": {{"unit": "fraction", "kind": "mean", "bounds": ({low}, {high}), "of": "forget"}}}}


def measure(outputs):
    for answers in outputs.sets:
        if answers.of == "forget":
            yield answers.number("{measured}", float(answers["true"].double().mean()))
'''


def new(folder: Path, name: str = "forget_trust", measured: str = "", low: Any = 0, high: Any = 1) -> tuple[Path, Path]:
    (folder / "trust.py").write_text(NEW.format(name=name, measured=measured or name, low=low, high=high))
    return families.FOLDER, folder


def test_a_family_is_found_by_lying_there(tmp_path: Path) -> None:
    asked = setting("class")
    rows = list(measure.measure({0: predict.outputs(**asked)}, {"forget_trust"}, folders=new(tmp_path)))
    assert len(by_metric(rows, "forget_trust")) == 2 * (1 + 3)
    without = measure.measure({0: predict.outputs(**asked)}, set(), folders=new(tmp_path))
    assert not by_metric(list(without), "forget_trust")
    said = answers(asked, asked["attacked"]["noise"].images[1])
    mean = sum(row[3] for row in said) / len(said)
    assert only(rows, "forget_trust", "noise", "64/255")["value"] == pytest.approx(mean, rel=1e-4)
    row = only(rows, "forget_trust")
    assert (row["unit"], row["kind"], row["bounds"], row["n"]) == ("fraction", "mean", [0, 1], 63)


def test_what_takes_long_is_done_where_it_is_asked_for_and_what_pages_check_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr("palimpsest.membership.train", refuse)
    made = {0: predict.outputs(**setting("class"))}
    found = {row["metric"] for row in measure.measure(made, set())}
    # What report/checks.py and report/records.py read of every model.
    checked = {"forget_accuracy", "retain_accuracy", "test_accuracy_full", "largest_change_levels", "parameters"}
    assert checked <= found
    assert not any(metric.startswith(("member_rate", "max_probability")) or "before" in metric for metric in found)
    with pytest.raises(AssertionError, match="fitted"):
        list(measure.measure(made, {"member_rate"}))


def test_seconds_are_those_of_the_records_and_name_their_device() -> None:
    processor = {"name": "A processor", "instructions": "AVX512", "bfloat16": True}
    jobs = [
        {
            "cell": {"block": "0-2"},
            "device": "cpu",
            "processor": processor,
            "threads": 1,
            "method_seconds": [1.5, None, 2],
        },
        {"cell": {"block": "3"}, "device": "A card", "processor": processor, "threads": 4, "method_seconds": [4.25]},
        {"cell": {"block": "4"}, "device": "cpu", "processor": processor, "threads": 2},  # it diverged
    ]
    taken = measure.taken(jobs)
    assert {number: one.seconds for number, one in taken.items()} == {0: 1.5, 2: 2.0, 3: 4.25}
    assert taken[0].device == "A processor, AVX512, 1 thread" and taken[3].device == "A card"
    made = dict.fromkeys((0, 1), predict.outputs(**setting("class")))
    seconds = {"unlearning": {0: taken[3]}, "training": {0: taken[0], 1: taken[0]}}
    found = [row for row in measure.measure(made, {"unlearning_seconds"}, seconds=seconds) if row["unit"] == "s"]
    told = [(row["repetition"], row["metric"], row["value"], row["device"], row["kind"]) for row in found]
    assert told == [
        (0, "unlearning_seconds", 4.25, "A card", "seconds"),
        (0, "training_seconds", 1.5, taken[0].device, "seconds"),
        (1, "training_seconds", 1.5, taken[0].device, "seconds"),
    ]
    assert not [row for row in measure.measure(made) if row["unit"] == "s"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((200, 50, 20, 10), {"share": (25, 200), "precision": (20, 50), "recall": (50, 20)}),
        ((200, 0, 20, 0), {"share": (0, 200), "recall": (0, 20)}),
        ((200, 50, 0, 0), {"share": (25, 200)}),
    ],
)
def test_what_was_isolated_is_a_share_of_all_and_of_what_was_asked_for(
    told: tuple[int, ...], expected: dict[str, tuple[float, int]], tmp_path: Path
) -> None:
    answers, header = predict.outputs(**small(tiny_model()))
    names = ("points", "isolated", "asked", "isolated_asked")
    said = {f"told/{name}": torch.tensor(number) for name, number in zip(names, told, strict=True)}
    predict.save({0: predict.Predicted(answers | said, header)}, tmp_path / "outputs")
    rows = [*measure.measure(predict.read(tmp_path / "outputs"), {"isolated_share"})]
    found = {row["metric"]: (row["value"], row["n"]) for row in rows if row["metric"].startswith("isolated")}
    assert found == {f"isolated_{name}": pair for name, pair in expected.items()}
    assert not [row for row in measure.measure({0: predict.Predicted(answers, header)}) if "isolated" in row["metric"]]


def test_how_far_a_bound_lies_above_what_it_bounds_is_counted_in_orders_of_magnitude(tmp_path: Path) -> None:
    answers, header = predict.outputs(**small(tiny_model()))
    said = {"told/gradient_change": torch.tensor(0.5), "told/gradient_change_bound": torch.tensor(5e6)}
    predict.save({0: predict.Predicted(answers | said, header)}, tmp_path / "outputs")
    rows = measure.measure(predict.read(tmp_path / "outputs"), {"gradient_change"})
    found = {row["metric"]: row["value"] for row in rows if row["metric"].startswith("gradient_change")}
    assert found == {"gradient_change": 0.5, "gradient_change_excess": pytest.approx(7.0)}


def test_what_sisa_says_of_its_shards_is_measured(tmp_path: Path) -> None:
    answers, header = predict.outputs(**small(tiny_model()))
    said = {"told/shard_accuracy": torch.tensor(60.0), "told/shard_accuracy_least": torch.tensor(50.0)}
    predict.save({0: predict.Predicted(answers | said, header)}, tmp_path / "outputs")
    rows = [*measure.measure(predict.read(tmp_path / "outputs"), {"shard_accuracy"})]
    found = {row["metric"]: row["value"] for row in rows if row["metric"].startswith("shard")}
    assert found == {"shard_accuracy": 60.0, "shard_accuracy_least": 50.0}


def test_a_family_whose_needs_are_not_there_measures_nothing() -> None:
    made = {0: predict.outputs(**small(tiny_model()))}
    found = {row["metric"] for row in measure.measure(made)}
    assert not found & {"test_accuracy_full_before", "target_accuracy", "trivial_asr"} and "forget_accuracy" in found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"measured": "forget_faith"}, "measures 'forget_faith' and does not declare it in METRICS"),
        ({"high": 0.001}, "forget_trust is 0.[0-9]+, beyond its bounds 0 and 0.001"),
        ({"name": "forget_accuracy"}, "declares the metric 'forget_accuracy', and so does accuracy.py"),
        ({"low": "(0)", "high": "0, 1"}, "'forget_trust' is declared with unit, kind, bounds and of: bounds are the"),
        ({"low": "float(0)"}, "METRICS must be a plain literal"),
    ],
)
def test_a_family_that_does_not_keep_to_its_word_is_refused(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    made = {0: predict.outputs(**setting("class"))}
    with pytest.raises(MetricError, match=sentence):
        list(measure.measure(made, folders=new(tmp_path, **change)))


@pytest.mark.parametrize(
    ("old", "other", "sentence"),
    [
        ('"kind": "mean"', '"kind": "rate"', "kind cannot be 'rate'; it takes samples, attempts, mean, set, seconds"),
        ('"kind": "mean", "bounds": (0, 1)', '"kind": "attempts", "bounds": (0, None)', "a proportion has both"),
        ('"unit": "fraction", ', "", "missing 1 required positional argument: 'unit'"),
        (
            '("forget",)',
            '("forgot",)',
            "NEEDS has forgot; it takes forget, retain, test, before, attacked, observed, judged, s",
        ),
        ("NEEDS = ", "NEED = ", "must declare METRICS and NEEDS"),
    ],
)
def test_a_declaration_says_what_is_wrong_with_it(old: str, other: str, sentence: str, tmp_path: Path) -> None:
    _, folder = new(tmp_path)
    text = (folder / "trust.py").read_text()
    assert old in text
    (folder / "trust.py").write_text(text.replace(old, other))
    with pytest.raises(MetricError, match=sentence):
        families.declared([families.FOLDER, folder])


def test_a_helper_is_no_family(tmp_path: Path) -> None:
    (tmp_path / "_helper.py").write_text("NOTHING = 1\n")
    assert not families.declared([tmp_path])


def test_declarations_are_read_without_torch() -> None:
    code = "import sys; from palimpsest import families; families.declared(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "src")


def test_neither_training_nor_predicting_imports_what_measures() -> None:
    package = ROOT / "src" / "palimpsest"
    folders = ("data", "models", "requests", "unlearners", "attacks", "defenses", "tasks")
    files = [file for folder in folders for file in (package / folder).rglob("*.py")]
    files += [package / f"{name}.py" for name in ("train", "curvature", "predict", "membership")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [getattr(node, "module", None) or ""] if isinstance(node, ast.ImportFrom) else []
            names = [f"{module}.{alias.name}" for module in modules for alias in node.names]
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("palimpsest.metrics", "palimpsest.measure", "palimpsest.families")), file
