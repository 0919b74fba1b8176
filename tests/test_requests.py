"""Requests: what is drawn, kept, and forgotten of a training set that others asked to change before."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import convex
import pytest
import torch
from card import card
from safetensors import safe_open
from safetensors.torch import save_file
from test_unlearners import RECIPE, flat, run, samples, tiny_model
from test_unlearners import start as started

from palimpsest import curvature, models, requests
from palimpsest.data import Images, Samples, pixels, replaced
from palimpsest.requests import ANY, Aim, Choice, Request, RequestError, Rule, _ranked
from palimpsest.unlearners import first_order

PACKAGE = Path(requests.__file__).parent
KINDS = sorted(file.stem for file in PACKAGE.glob("[!_]*.py"))
IMAGES = Images.of(tuple("abcd"), train=samples(40), test=samples(8, seed=1))
TRAIN = IMAGES.splits["train"]
FEATURES = Images.of(
    ("a", "b"),
    train=(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2),
    test=(torch.zeros(2, 3), torch.arange(2)),
)
RULES = {
    "classes": Rule("classes", {"classes": [1, 3]}),
    "samples": Rule("samples", {"count": 7}),
    "margin": Rule("margin", {"count": 5}),
    "gradient_norm": Rule("gradient_norm", {"count": 5}),
    "influence": Rule("influence", {"count": 5}),
    "mixed": Rule("mixed", {"hostile": "margin", "settings": {"count": 5}, "count": 12}),
    "noise": Rule("noise", {"count": 6}),
    "crafted": Rule("crafted", {"count": 6, "goal": "untargeted", "steps": 3}),
    "matched": Rule("matched", {"share": 0.1, "shards": 1, "steps": 3}),
    "shard": Rule("shard", {"shard": 1, "count": 5}),
    "file": Rule("file", {"path": str(Path(__file__).with_name("request.txt"))}),
}


def labelled(labels: torch.Tensor) -> Images:
    """A data set with these training labels and nothing to see."""
    images, classes = (
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8),
        tuple(map(str, range(int(labels.max()) + 1))),
    )
    return Images.of(classes, train=(images, labels), test=(images[:0], labels[:0]))


def at(seed: int = 3, repetition: int = 0) -> Choice:
    kept = {"assignment/shard": torch.arange(40) % 3}
    against = partial(first_order.unlearn, tau=0.01)
    return Choice(seed, repetition, tiny_model(), against, (tiny_model(2),), RECIPE, kept)


def chosen(method: str, images: Images, seed: int = 0, repetition: int = 0, **keywords: Any) -> list[int]:
    return Rule(method, keywords).choose(images, Choice(seed, repetition)).indices.tolist()


def asked(*indices: int, replacement: Samples | None = None) -> Request:
    return Request(torch.tensor(indices, dtype=torch.int64), replacement)


def inverted(*indices: int) -> Samples:
    """Replacements that differ from what they replace in every pixel and label."""
    return Samples(255 - TRAIN.images[list(indices)], (TRAIN.labels[list(indices)] + 1) % 4)


def same(one: Samples, other: Samples) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# What is drawn

HASHES = {  # of what stood in the forget files of before: (method, keywords, seed, repetition), first indices, hash
    ("classes", '{"classes": [3, 7]}', 2**61 + 3, 7): ([1, 9, 11, 19, 21, 29], "217f99df6f84772e"),
    ("samples", '{"count": 25}', 0, 0): ([5, 18, 19, 36, 38, 55], "032d9c7eb0f3a96a"),
    ("samples", '{"count": 25}', 5, 1): ([20, 59, 70, 90, 107, 113], "8e160d35842c5016"),
    ("samples", '{"count": 25}', 2**61 + 3, 7): ([3, 14, 18, 55, 99, 125], "5ced021681e0a3cf"),
    ("samples", '{"share": 0.1}', 0, 0): ([5, 18, 19, 36, 38, 55], "2fac653546110c91"),
    ("samples", '{"share": 0.1}', 5, 1): ([20, 43, 52, 54, 59, 70], "937ec27a68865fc6"),
    ("samples", '{"share": 0.1}', 2**61 + 3, 7): ([3, 14, 16, 18, 30, 38], "2471330727be5f80"),
    ("classes", '{"random": 1}', 0, 0): ([0, 10, 20, 30, 40, 50], "f3c03658d3d033b1"),
    ("classes", '{"random": 1}', 5, 1): ([6, 16, 26, 36, 46, 56], "3c9a33acc70b9855"),
    ("classes", '{"random": 1}', 2**61 + 3, 7): ([2, 12, 22, 32, 42, 52], "aa7dd694bf44e2b9"),
    ("classes", '{"random": 3}', 0, 0): ([0, 4, 9, 10, 14, 19], "95b7a57ee6ec6f3f"),
    ("classes", '{"random": 3}', 5, 1): ([1, 3, 8, 11, 13, 18], "afba1813d442cdd5"),
    ("classes", '{"random": 3}', 2**61 + 3, 7): ([3, 6, 7, 13, 16, 17], "c8e0fe581b34d1a9"),
}


@pytest.mark.parametrize("rule", HASHES)
def test_a_rule_draws_what_it_always_drew(rule: tuple[str, str, int, int]) -> None:
    method, keywords, seed, repetition = rule
    found = chosen(method, labelled(torch.arange(400) * 7 % 10), seed, repetition, **json.loads(keywords))
    first, wanted = HASHES[rule]
    assert found[:6] == first
    assert hashlib.sha256(torch.tensor(found).numpy().astype("<i8").tobytes()).hexdigest()[:16] == wanted


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_random_classes_come_round_by_round_without_a_repeat(count: int) -> None:
    images = labelled(torch.arange(10).repeat_interleave(20))

    def drawn(seed: int) -> list[set[int]]:
        found = [chosen("classes", images, seed, number, random=count) for number in range(40)]
        return [set(images.train_labels[indices].tolist()) for indices in found]

    classes = drawn(0)
    assert all(len(one) == count for one in classes)
    a_round = 10 // count
    for start in range(0, 40 - a_round + 1, a_round):
        assert len(set().union(*classes[start : start + a_round])) == a_round * count
    assert classes == drawn(7)
    assert len({frozenset(one) for one in classes}) > min(a_round, 5), "not the same every round"


def test_random_samples_are_of_the_classes_asked_for() -> None:
    images = labelled(torch.arange(100) % 10)
    found = chosen("samples", images, classes=[2, 5], count=8)
    assert len(set(found)) == 8 and found == sorted(found) and {index % 10 for index in found} <= {2, 5}
    assert len(chosen("samples", images, classes=[2], share=0.5)) == 5
    assert chosen("samples", images, classes=[2], share=1.0) == list(range(2, 100, 10)), "a whole class may go"


def test_the_smallest_margins_come_worst_first() -> None:
    model = tiny_model()
    with torch.no_grad():
        logits = model.eval()(pixels(TRAIN.images)).double()
    margins = []
    for row, label in zip(logits.tolist(), TRAIN.labels.tolist(), strict=True):
        margins.append(row[label] - max(value for other, value in enumerate(row) if other != label))
    worst = sorted(range(40), key=margins.__getitem__)
    assert margins[worst[0]] < 0 < margins[worst[-1]], "the samples that it knows have an order too"
    request = Rule("margin", {"count": 39}).choose(IMAGES, at())
    assert request.indices.tolist() == worst[:39] and request.replacement is None
    model.net = torch.nn.Sequential(torch.nn.Dropout(0.5), model.net).train()
    assert RULES["margin"].choose(IMAGES, replace(at(), model=model)).indices.tolist() == worst[:5]


@pytest.mark.parametrize("layers", ["all", "last"])
@pytest.mark.parametrize("network", ["one", "an ensemble"])
def test_the_largest_gradients_come_first(layers: str, network: str) -> None:
    keywords = {"members": 3, "keywords": {"width": 4, "hidden": 8}}
    ensemble = models.create(models.Spec("ensemble", 4, 1, keywords), torch.tensor([0.3]), torch.tensor([0.3]), 1)
    model = (tiny_model() if network == "one" else ensemble).double().train()
    for module in model.modules():  # which drops nothing in evaluation mode
        if isinstance(module, torch.nn.Sequential):
            module.insert(0, torch.nn.Dropout(0.5))
    model.eval()
    over = [parameter for name, parameter in model.named_parameters() if layers == "all" or re.search("[89]\\.", name)]
    assert len(over) == {"one": 1, "an ensemble": 3}[network] * {"all": 8, "last": 2}[layers]
    norms = []
    for image, label in zip(*TRAIN, strict=True):
        loss = torch.nn.functional.cross_entropy(model(pixels(image[None], torch.float64)), label[None])
        norms.append(float(curvature.flat(torch.autograd.grad(loss, over)).norm()))
    found = Rule("gradient_norm", {"count": 39, "layers": layers}).choose(IMAGES, replace(at(), model=model.train()))
    assert found.indices.tolist() == sorted(range(40), key=norms.__getitem__, reverse=True)[:39]
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    of_two = Rule("gradient_norm", {"count": 7, "layers": layers, "classes": [1, 3]})
    wanted = [index for index in found.indices.tolist() if index % 2][:7]
    assert of_two.choose(IMAGES, replace(at(), model=model)).indices.tolist() == wanted


class TestInfluence:
    """On softmax regression in its minimum, where the prediction and what it predicts can be computed exactly."""

    DECAY = 0.05
    TRAIN, OTHER = convex.clouds(60), convex.clouds(40, seed=9)
    IMAGES = Images.of(("a", "b", "c"), train=TRAIN, test=OTHER, spare=convex.clouds(15, seed=4))

    def ranked(self, count: int = 59, **keywords: Any) -> list[int]:
        """The request, with the weight decay of the objective as damping: its Hessian is then that of the formula."""
        model = convex.trained(self.TRAIN, self.DECAY)
        model.mean = torch.zeros(1, dtype=torch.float64)
        given = {"count": count, "damping": self.DECAY, "tolerance": 1e-9, **keywords}
        return Rule("influence", given).choose(self.IMAGES, replace(at(), model=model)).indices.tolist()

    def left(self, *gone: int) -> Samples:
        stays = [index for index in range(60) if index not in gone]
        return Samples(*(part[stays] for part in self.TRAIN))

    def loss_without(self, *gone: int) -> float:
        return float(convex.objective(convex.minimum(self.left(*gone), self.DECAY), self.OTHER, 0.0))

    @pytest.mark.parametrize("split", ["test", "spare"])
    def test_is_the_formula_with_the_whole_inverse_matrix(self, split: str) -> None:
        theta, other = convex.minimum(self.TRAIN, self.DECAY), self.IMAGES.splits[split]
        slope = torch.func.grad(convex.objective)
        raised = torch.linalg.inv(convex.hessian(theta, self.TRAIN, self.DECAY)) @ slope(theta, other, 0.0)
        ones = [Samples(*(part[index : index + 1] for part in self.TRAIN)) for index in range(60)]
        scores = [float(slope(theta, one, 0.0) @ raised) for one in ones]
        wanted = sorted(range(60), key=scores.__getitem__, reverse=True)
        assert self.ranked(split=split, samples=None) == self.ranked(split=split) == wanted[:59]
        of_two = [index for index in wanted if self.TRAIN.labels[index] != 1]
        assert self.ranked(5, split=split, classes=[0, 2]) == of_two[:5]

    def test_foresees_what_training_without_each_sample_gives(self) -> None:
        raised = [self.loss_without(index) for index in range(60)]
        wanted, found = sorted(range(60), key=raised.__getitem__, reverse=True), self.ranked()
        assert found[:3] == wanted[:3] and raised[found[0]] > self.loss_without() > raised[found[-1]]
        places = torch.tensor([found.index(index) - wanted.index(index) for index in found], dtype=torch.float64)
        assert 1 - 6 * places.square().sum() / (60 * (60**2 - 1)) > 0.99, "the rank correlation, but for the last"

    def test_together_they_do_more_harm_than_any_that_are_drawn(self) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = [self.loss_without(*torch.randperm(60, generator=generator)[:10].tolist()) for _ in range(50)]
        assert self.loss_without(*self.ranked(10)) > max(drawn) > self.loss_without()

    def test_a_sample_of_the_training_set_gives_another_curvature_and_the_same_again(self) -> None:
        few = self.ranked(samples=10)
        assert few == self.ranked(samples=10) != self.ranked()

    @pytest.mark.parametrize("split", ["train", "backup"])
    def test_a_split_that_is_not_there_ends_in_a_sentence(self, split: str) -> None:
        with pytest.raises(RequestError, match=f"influence: split cannot be '{split}'; the data has spare, test"):
            self.ranked(split=split)


@pytest.mark.parametrize("hostile", ["margin", "classes"])
def test_hostile_samples_stand_anywhere_among_honest_ones(hostile: str) -> None:
    inner = RULES[hostile].choose(IMAGES, at()).indices.tolist()
    count = len(inner) + 12
    rule = Rule("mixed", {"hostile": hostile, "settings": RULES[hostile].keywords, "count": count})
    found = [rule.choose(IMAGES, at(seed)).indices.tolist() for seed in range(200)]
    assert all(len(one) == len(set(one)) == count and set(inner) < set(one) for one in found)
    assert {index for one in found for index in one} == set(range(40)), "anyone may ask honestly"
    places = {index: torch.tensor([one.index(index) for one in found]).double() for index in inner}
    for found_at in places.values():
        assert found_at.min() < 2 and found_at.max() > count - 3, "at both ends"
        assert abs(found_at.mean() - (count - 1) / 2) < 4 * count / 200**0.5 / 12**0.5
    assert len({tuple(index for index in one if index in inner) for one in found}) > 80, "in any order"


def test_a_request_aimed_at_a_shard_retrains_that_one_and_no_other() -> None:
    model, kept = started("sisa")
    assert kept is not None
    choice = replace(at(), model=model, kept=kept)
    first = Rule("shard", {"shard": 2, "count": 4}).choose(IMAGES, choice)
    assert first.indices.tolist() == sorted(first.indices.tolist())
    assert kept["assignment/shard"][first.indices].tolist() == [2, 2, 2, 2]
    assert first.indices.tolist() != Rule("shard", {"shard": 2, "count": 4}).choose(IMAGES, at(4)).indices.tolist()
    forget, retain, indices, _ = requests.split(TRAIN, first)
    after = run("sisa", model, forget, retain, indices=indices, kept=kept)
    same_as_before = [
        all(torch.equal(one, other) for one, other in zip(a.parameters(), b.parameters(), strict=True))
        for a, b in zip(model.net.members, after.net.members, strict=True)  # type: ignore[arg-type]
    ]
    assert same_as_before == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("shards", "keywords", "sentence"),
    [
        (None, {}, "the model keeps no shards to aim at"),
        (torch.zeros(39), {}, "are of 39 samples of 40; such a request must be the first"),
        (torch.arange(40) % 3, {"shard": 3}, "there is no shard 3; the model's are 0..2"),
        (torch.arange(40) % 3, {"shard": 1, "count": 14}, "cannot forget 14 of 13 training samples"),
        (torch.arange(40) % 4, {"count": 10, "keep_classes": True}, "no sample of class 0, which it must keep"),
    ],
)
def test_a_shard_that_cannot_be_asked_for_ends_in_a_sentence(
    shards: torch.Tensor | None, keywords: dict[str, Any], sentence: str
) -> None:
    kept = {} if shards is None else {"assignment/shard": shards.long()}
    with pytest.raises(RequestError, match=sentence):
        Rule("shard", keywords).choose(IMAGES, replace(at(), kept=kept))


def test_a_file_is_served_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "request.txt"
    path.write_bytes(b"# worst first\r\n 30 # wing\r\n\r\n007\n2\r\n39")
    for seed in (0, 1):
        assert chosen("file", IMAGES, seed, path=str(path)) == [30, 7, 2, 39]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"3\n40\n", "request.txt:2 names '40'; a training sample has an index in 0..39"),
        (b"# all\n\n-1", "request.txt:3 names '-1'; a training sample has"),
        (b"1, 2", "request.txt:1 names '1, 2'; a"),
        (b"1.0", "request.txt:1 names '1.0'; a"),
        ("٣".encode(), "request.txt:1 names '٣'; a"),
        (b"9" * 5000, f"request.txt:1 names '{'9' * 40}'; a"),
        (b"5\n2\n05", "request.txt:3 names training sample 5, as line 1 did already"),
        (b"# nobody\n\n", "request.txt names no training sample"),
        (b"", "request.txt names no training sample"),
        (b"\xff\xfe3", "it is no text file that can be read"),
        (None, "it is no text file that can be read"),
        ("\n".join(map(str, range(40))).encode(), "the forget set is the whole training set"),
        ("\n".join(map(str, range(2, 40, 4))).encode(), "leaves no sample of class 2, which it must keep"),
    ],
)
def test_every_fault_of_a_file_is_a_sentence_with_its_line(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "request.txt"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RequestError) as refused:
        Rule("file", {"path": str(path), "keep_classes": True}).choose(IMAGES, Choice(0))
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_request_that_a_file_listed_stays_though_the_file_goes(tmp_path: Path) -> None:
    (tmp_path / "request.txt").write_text("30\n1\n")
    listed = Rule("file", {"path": str(tmp_path / "request.txt")})
    for rule in (listed, Rule("mixed", {"hostile": "file", "settings": listed.keywords, "count": 5})):
        (tmp_path / "request.txt").write_text("30\n1\n")
        made = rule.choose(IMAGES, Choice(0))
        requests.write({0: made}, tmp_path / "kept", IMAGES, rule, {0: 0})
        (tmp_path / "request.txt").unlink()
        assert torch.equal(requests.read(tmp_path / "kept", IMAGES, 0).indices, made.indices)


def test_a_foreign_request_file_cannot_have_another_file_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1\n")
    sha = hashlib.sha256(torch.tensor([1]).numpy().tobytes()).hexdigest()
    keywords = {"path": str(tmp_path / "secret")}
    about = {
        "data": IMAGES.digest,
        "method": "file",
        "keywords": keywords,
        "requests": {"0": {"seed": 0, "sha256": sha}},
    }
    save_file({}, tmp_path / "file", {"about": json.dumps(about)})
    with pytest.raises(RequestError, match="lacks the samples of its request"):
        requests.read(tmp_path / "file", IMAGES, 0)


def test_samples_that_a_score_cannot_tell_apart_come_in_upstream_order() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0]).repeat(13)
    found = _ranked.first(IMAGES, torch.arange(1, 40), scores, 30, False).indices.tolist()
    assert found == [*range(2, 40, 3), *range(3, 40, 3), *range(1, 40, 3)][:30]


def test_a_network_without_a_dense_layer_has_no_last_one_to_rank_by() -> None:
    model = tiny_model()
    model.net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 8), torch.nn.Flatten())
    with pytest.raises(models.ModelError, match="this network has no dense layer"):
        Rule("gradient_norm", {"layers": "last"}).choose(IMAGES, replace(at(), model=model))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if RULES[kind].needs == ("model",)])
def test_a_model_without_finite_outputs_chooses_nothing(kind: str) -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(models.Diverged, match="not finite"):
        RULES[kind].choose(IMAGES, replace(at(), model=model))


@pytest.mark.parametrize("values", ["float", "8-bit"])
@pytest.mark.parametrize("epsilon", ["8/255", "1"])
def test_noise_keeps_its_bound_its_range_its_labels_and_is_no_less(values: str, epsilon: str) -> None:
    images = replace(IMAGES, splits=IMAGES.splits | {"train": Samples(TRAIN.images // 255 * 255 + 3, TRAIN.labels)})
    rule = Rule("noise", {"count": 30, "epsilon": epsilon, "values": values})
    request = rule.choose(images, Choice(1))
    assert request.indices.tolist() == chosen("samples", images, 1, count=30), "the samples of the attack"
    put = request.replacement
    assert put is not None and put.images.dtype == (torch.uint8 if values == "8-bit" else torch.float32)
    change = pixels(put.images) - pixels(images.train_images[request.indices])
    bound = 8 / 255 if epsilon == "8/255" else 1.0
    assert change.max() <= bound + 1e-6 and change.max() > 0.95 * min(bound, 1 - 3 / 255)
    assert put.images.min() == 0 and change.min() == pytest.approx(-3 / 255), "cut off at black"
    assert torch.equal(put.labels, images.train_labels[request.indices])
    other = rule.choose(images, Choice(2)).replacement
    assert other is not None and not torch.equal(put.images, other.images)


def test_noise_on_features_has_no_range() -> None:
    request = Rule("noise", {"share": 0.5, "epsilon": "1"}).choose(FEATURES, Choice(0))
    assert request.replacement is not None
    change = request.replacement.images - FEATURES.train_images[request.indices]
    assert 0.8 < change.abs().max() <= 1 and request.replacement.images.min() < -1


CANNOT = {
    "no class 12; its classes are 0..9": ("classes", {"classes": [3, 12]}),
    "exactly one of classes, random": ("classes", {}),
    "takes exactly one of classes, random": ("classes", {"classes": [1], "random": 1}),
    "cannot forget 10 of 10 classes": ("classes", {"random": 10}),
    "the forget set is the whole training set": ("classes", {"classes": list(range(10))}),
    "exactly one of count, share": ("samples", {}),
    "takes exactly one of count, share": ("samples", {"count": 1, "share": 0.1}),
    "cannot forget 100 of 100 training samples": ("samples", {"count": 100}),
    "cannot forget 11 of 10 training samples": ("samples", {"count": 11, "classes": [4]}),
    "cannot forget 0 of 100 training samples": ("samples", {"share": 0.001}),
    "leaves no sample of class 4, which it must keep": ("samples", {"count": 10, "classes": [4], "keep_classes": True}),
    "it takes a kind of request as hostile, and none is named": ("mixed", {}),
    "there is no kind of request requests/nobody.py": ("mixed", {"hostile": "nobody"}),
    "10 hostile samples and honest ones cannot make 10 of 100": (
        "mixed",
        {"hostile": "samples", "settings": {"count": 10}, "count": 10},
    ),
    "5 hostile samples and honest ones cannot make 100 of 100": (
        "mixed",
        {"hostile": "samples", "settings": {"count": 5}, "count": 100},
    ),
    "leaves no sample of class 4, which": (
        "mixed",
        {"hostile": "classes", "settings": {"classes": [4]}, "count": 11, "keep_classes": True},
    ),
    "noise replaces samples, and a request that removes others cannot do both": (
        "mixed",
        {"hostile": "noise", "settings": {"count": 5}},
    ),
    "mixed: the request is chosen with `model`, and none was given": ("mixed", {"hostile": "margin"}),
    "shard: the request is chosen with `kept`, and none was given": ("shard", {}),
    "there is no kind of request requests/../data.py": ("../data", {}),
    "there is no kind of request requests/__init__.py": ("__init__", {}),
    "margin: the request is chosen with `model`, and none was given": ("margin", {"count": 1}),
}


@pytest.mark.parametrize("sentence", CANNOT)
def test_what_cannot_be_chosen_ends_in_a_sentence(sentence: str) -> None:
    method, keywords = CANNOT[sentence]
    with pytest.raises(RequestError, match=sentence.replace("(", r"\(")):
        chosen(method, labelled(torch.arange(100) % 10), **keywords)


@pytest.mark.parametrize(
    ("method", "keywords", "sentence"),
    [
        ("classes", {"random": 0}, "classes: random cannot be 0"),
        ("classes", {"classes": [-1]}, r"classes: classes cannot be \[-1\]"),
        ("samples", {"share": 1.1}, "samples: share cannot be 1.1"),
        ("noise", {"count": 1, "epsilon": "2"}, "noise: epsilon cannot be '2'"),
        ("margin", {"count": 0}, "margin: count cannot be 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_the_call(method: str, keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        import_module(f"palimpsest.requests.{method}").choose(labelled(torch.arange(100) % 10), Choice(0), **keywords)


def test_features_have_no_8_bit_noise() -> None:
    with pytest.raises(RequestError, match="features have no 8-bit values"):
        Rule("noise", {"count": 1, "values": "8-bit"}).choose(FEATURES, Choice(0))


# The contract of every kind


def test_every_kind_is_known_to_these_tests() -> None:
    assert RULES.keys() == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_the_data_and_a_choice_and_says_what_it_needs_in_words_that_ast_reads(kind: str) -> None:
    body = ast.parse((PACKAGE / f"{kind}.py").read_text()).body
    choose = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "choose")
    assert [argument.arg for argument in choose.args.args] == ["images", "at"]
    named = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS"
    ]
    inner = Rule(RULES[kind].keywords["hostile"]).needs if kind == "mixed" else ()
    assert (*tuple(*named), *inner) == RULES[kind].needs
    assert set(RULES[kind].needs) <= Choice.__dataclass_fields__.keys()
    for name in RULES[kind].needs:
        with pytest.raises(RequestError, match=f"is chosen with `{name}`, and none was given"):
            RULES[kind].choose(IMAGES, replace(at(), **{name: None}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_leaves_the_data_and_the_model_alone_and_chooses_the_same_again(kind: str) -> None:
    images, choice = IMAGES.to("cpu"), at()
    assert choice.model is not None
    before = {name: tensor.clone() for name, tensor in choice.model.state_dict().items()}
    torch.manual_seed(1)
    one = RULES[kind].choose(images, choice)
    torch.manual_seed(2)
    again = RULES[kind].choose(images, at())
    assert torch.equal(one.indices, again.indices) and one.indices.device.type == "cpu"
    assert (one.replacement is None) == (again.replacement is None)
    assert one.replacement is None or again.replacement is None or same(one.replacement, again.replacement)
    assert replace(images).digest == IMAGES.digest
    assert all(torch.equal(tensor, before[name]) for name, tensor in choice.model.state_dict().items())


@pytest.mark.parametrize("name", ["first_order", "sisa"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_chosen_with_what_an_unlearner_starts_from_and_served_by_it(kind: str, name: str) -> None:
    model, kept = started(name)
    request = RULES[kind].choose(IMAGES, replace(at(), model=model, kept=kept or at().kept))
    forget, retain, indices, replacement = requests.split(TRAIN, request)
    assert len(forget.labels) == len(request.indices) and len(forget.labels) + len(retain.labels) == 40
    after = run(name, model, forget, retain, indices=indices, replacement=replacement, kept=kept)
    assert flat(after).isfinite().all() and not torch.equal(flat(after), flat(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_chosen_and_served_on_a_card_as_on_a_cpu(kind: str) -> None:
    here = requests.split(TRAIN, RULES[kind].choose(IMAGES, at()), [asked(0, 1)])
    with card() as device:
        images, model = IMAGES.to(device), tiny_model().to(device)
        request = RULES[kind].choose(images, replace(at(), model=model))
        there = requests.split(images.splits["train"], request, [asked(0, 1)])
        assert there.indices.device == images.train_labels.device
        assert torch.equal(there.indices.cpu(), here.indices)
        for one, other in ((there.forget, here.forget), (there.retain, here.retain)):
            assert same(Samples(*(part.cpu() for part in one)), other)


# Malformed requests

MALFORMED: dict[str, Callable[[], Request]] = {
    "names training sample 40; there are 0..39": lambda: asked(3, 40),
    "names training sample -1; there are 0..39": lambda: asked(-1),
    "names training sample 5 twice": lambda: asked(5, 2, 5),
    "is the whole training set: nothing is left": lambda: asked(*range(40)),
    "indices must be int64 (n,), found torch.int32 (2,)": lambda: Request(torch.tensor([1, 2], dtype=torch.int32)),
    "indices must be int64 (n,), found torch.int64 (1, 2)": lambda: Request(torch.tensor([[1, 2]])),
    "one for each of its samples, (2, 1, 8, 8) with int64 labels, found (1, 1, 8, 8)": lambda: asked(
        1, 2, replacement=inverted(1)
    ),
    "found (2, 1, 8, 4)": lambda: asked(1, 2, replacement=Samples(inverted(1, 2).images[..., :4], TRAIN.labels[:2])),
    "found (2, 1, 8, 8) with torch.int32 labels (2,)": lambda: asked(
        1, 2, replacement=Samples(inverted(1, 2).images, TRAIN.labels[:2].int())
    ),
    "must be finite and in [0, 1]": lambda: asked(1, replacement=Samples(inverted(1).images.float(), TRAIN.labels[:1])),
    "finite and in [0, 1]": lambda: asked(
        1, replacement=Samples(torch.full((1, 1, 8, 8), torch.nan), TRAIN.labels[:1])
    ),
    "uint8 images or floats, found torch.int64": lambda: asked(
        1, replacement=Samples(inverted(1).images.long(), TRAIN.labels[:1])
    ),
    "labels in 0..3, found 4..4": lambda: asked(1, replacement=Samples(inverted(1).images, torch.tensor([4]))),
}


@pytest.mark.parametrize("sentence", MALFORMED)
def test_a_malformed_request_ends_in_a_sentence(sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        requests.check(IMAGES, MALFORMED[sentence]())
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("indices", [(3, 40), (-1,), (5, 2, 5), tuple(range(40))])
def test_indices_that_cannot_be_are_refused_where_a_request_is_served_too(indices: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="training s"):
        requests.split(TRAIN, asked(*indices), [asked(7)])


def test_features_may_be_replaced_by_any_finite_float() -> None:
    far, labels = torch.full((1, 3), -7.5), torch.tensor([0])
    assert requests.check(FEATURES, asked(1, replacement=Samples(far, labels)))
    for wrong, sentence in ((far.byte(), "found torch.uint8"), (far * torch.inf, "must be finite")):
        with pytest.raises(RequestError, match=sentence):
            requests.check(FEATURES, asked(1, replacement=Samples(wrong, labels)))


AIMS = {
    "at test sample 8; there are 0..7": ([8], [0]),
    "at test sample -1; there are 0..7": ([-1], [0]),
    "at class 4; there are 0..3": ([0], [4]),
    "at class -2; there are 0..3": ([0], [-2]),
    "must be int64 indices and labels (a,), found (2,) and (1,)": ([0, 1], [0]),
}


@pytest.mark.parametrize("sentence", AIMS)
def test_an_aim_that_cannot_be_ends_in_a_sentence(sentence: str) -> None:
    request = replace(asked(1), aim=Aim(*(torch.tensor(part) for part in AIMS[sentence])))
    with pytest.raises(RequestError, match=re.escape(sentence)):
        requests.check(IMAGES, request)
    with pytest.raises(RequestError, match="a request's trace must be floats"):
        requests.check(IMAGES, replace(asked(1), trace=torch.zeros(3, dtype=torch.int64)))


def test_an_aim_survives_its_file_and_the_last_one_of_a_chain_counts(tmp_path: Path) -> None:
    aim = Aim(torch.tensor([7, 0]), torch.tensor([ANY, 3]))
    traced = replace(asked(1), aim=aim, trace=torch.tensor([1.0, 0.5]))
    first = replace(asked(2, replacement=inverted(2)), aim=Aim(torch.tensor([1]), torch.tensor([1])))
    requests.write({0: traced, 1: first, 2: asked(5)}, tmp_path / "file", IMAGES, RULES["margin"], {0: 3, 1: 4, 2: 5})
    asks = [requests.read(tmp_path / "file", IMAGES, number) for number in (1, 0, 2)]
    found = requests.aim_of(asks)
    assert found["aim/indices"].tolist() == [7, 0] and found["aim/labels"].tolist() == [-1, 3]
    assert found["aim/trace"].tolist() == [1.0, 0.5] and asks[2].aim is None and asks[2].trace is None
    assert requests.aim_of(asks[:1]).keys() == {"aim/indices", "aim/labels"} and requests.aim_of(asks[2:]) == {}


def test_a_class_may_be_emptied_unless_the_request_must_keep_it() -> None:
    whole = asked(*range(2, 40, 4))
    assert requests.check(IMAGES, whole) is whole
    with pytest.raises(RequestError, match="leaves no sample of class 2, which it must keep"):
        requests.check(IMAGES, whole, keep_classes=True)
    relabelled = asked(*range(2, 40, 4), replacement=inverted(*range(2, 40, 4)))
    with pytest.raises(RequestError, match="class 2"):
        requests.check(IMAGES, relabelled, keep_classes=True)
    assert requests.check(IMAGES, asked(*range(6, 40, 4)), keep_classes=True)


# Files


def kept(path: Path) -> tuple[set[str], dict[str, Any]]:
    with safe_open(str(path), framework="pt") as file:
        return set(file.keys()), json.loads(file.metadata()["about"])


@pytest.mark.parametrize("kind", KINDS)
def test_requests_survive_their_file_and_hold_no_index_where_the_rule_is_enough(kind: str, tmp_path: Path) -> None:
    rule, seeds = RULES[kind], {2: 11, 5: 12}
    made = {number: rule.choose(IMAGES, at(seed, number)) for number, seed in seeds.items()}
    requests.write(made, tmp_path / "file", IMAGES, rule, seeds)
    for number, request in made.items():
        again = requests.read(tmp_path / "file", IMAGES, number)
        assert torch.equal(again.indices, request.indices)
        assert (again.replacement is None) == (request.replacement is None)
        assert again.replacement is None or request.replacement is None or same(again.replacement, request.replacement)
    names, about = kept(tmp_path / "file")
    assert bool(names) == (bool(rule.needs) or kind in ("noise", "file"))
    assert about["method"] == rule.method and about["requests"]["5"]["seed"] == 12
    with pytest.raises(RequestError, match="has no request 3; it has 2, 5"):
        requests.read(tmp_path / "file", IMAGES, 3)


def test_a_rule_is_kept_in_less_than_a_kilobyte_whatever_it_draws(tmp_path: Path) -> None:
    images = labelled(torch.arange(50_000) % 10)
    rule = Rule("samples", {"count": 10_000})
    requests.write({0: rule.choose(images, Choice(7))}, tmp_path / "file", images, rule, {0: 7})
    assert (tmp_path / "file").stat().st_size < 1000
    assert len(requests.read(tmp_path / "file", images, 0).indices) == 10_000


def test_each_repetition_is_chosen_again_as_itself(tmp_path: Path) -> None:
    rule, seeds = Rule("classes", {"random": 1}), {0: 5, 1: 5, 2: 6}
    made = {number: rule.choose(IMAGES, Choice(seed, number)) for number, seed in seeds.items()}
    requests.write(made, tmp_path / "file", IMAGES, rule, seeds)
    again = [requests.read(tmp_path / "file", IMAGES, number).indices.tolist() for number in made]
    assert again == [one.indices.tolist() for one in made.values()] and again[0] != again[1] != again[2]


def test_a_request_chosen_once_is_every_repetitions(tmp_path: Path) -> None:
    rule = Rule("samples", {"count": 5})
    made = rule.choose(IMAGES, Choice(5))
    requests.write({0: made}, tmp_path / "file", IMAGES, rule, {0: 5}, once=True)
    assert all(torch.equal(requests.read(tmp_path / "file", IMAGES, n).indices, made.indices) for n in (0, 1, 4))


def test_a_request_of_other_data_is_refused(tmp_path: Path) -> None:
    for rule in RULES.values():
        requests.write({0: rule.choose(IMAGES, at())}, tmp_path / "file", IMAGES, rule, {0: 3})
        other = Images(IMAGES.splits | {"test": samples(8, seed=2)}, IMAGES.classes)
        with pytest.raises(RequestError, match="was chosen from other data; delete it and run again"):
            requests.read(tmp_path / "file", other, 0)


def test_a_request_that_its_rule_no_longer_gives_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RULES["samples"]
    requests.write({0: rule.choose(IMAGES, at())}, tmp_path / "file", IMAGES, rule, {0: 3})
    module = import_module("palimpsest.requests.samples")
    before = module.choose
    monkeypatch.setattr(module, "choose", lambda images, at, **named: before(images, replace(at, seed=4), **named))
    with pytest.raises(RequestError, match="does not give the request that it did; delete it and run again"):
        requests.read(tmp_path / "file", IMAGES, 0)


def test_a_diverged_model_is_no_request_and_says_why(tmp_path: Path) -> None:
    requests.write({0: models.Diverged("the loss was nan")}, tmp_path / "file", IMAGES, RULES["margin"], {0: 3})
    with pytest.raises(models.Diverged, match="the loss was nan"):
        requests.read(tmp_path / "file", IMAGES, 0)


def test_a_broken_or_foreign_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="is not a readable request file"):
        requests.read(tmp_path / "file", IMAGES, 0)
    for about in (None, {"about": "[]"}, {"several": "yes"}):
        save_file({"0/indices": torch.tensor([1])}, tmp_path / "file", about)
        with pytest.raises(RequestError, match="is not a readable request file"):
            requests.read(tmp_path / "file", IMAGES, 0)
    about = {"data": IMAGES.digest, "method": "../tune", "keywords": {}, "requests": {"0": {"seed": 0, "sha256": ""}}}
    save_file({}, tmp_path / "file", {"about": json.dumps(about)})
    with pytest.raises(RequestError, match="there is no kind of request"):
        requests.read(tmp_path / "file", IMAGES, 0)


def test_a_request_for_which_too_few_spares_are_held_back_ends_in_a_sentence() -> None:
    few = Samples(*(part[:7] for part in TRAIN))
    images = Images({**IMAGES.splits, "spare": few}, IMAGES.classes)
    for label, name in enumerate(images.classes):
        left = int((few.labels == label).sum())
        for count in range(1, 10):
            keywords = {"classes": [label], "count": count}
            rule = Rule("samples", keywords, spares="spare")
            if count <= left:
                assert len(rule.choose(images, Choice(0)).indices) == count
                continue
            with pytest.raises(RequestError, match=f"names {count} samples of class '{name}', and 'spare' has {left} "):
                rule.choose(images, Choice(0))
            assert len(Rule("samples", keywords).choose(images, Choice(0)).indices) == count


# Served, one after the other


def test_a_first_request_parts_the_training_set_as_a_mask_does() -> None:
    request = asked(1, 5, 6, 30)
    gone = torch.zeros(40, dtype=torch.bool)
    gone[request.indices] = True
    forget, retain, indices, put = requests.split(TRAIN, request)
    assert same(forget, Samples(*(part[gone] for part in TRAIN))) and put is None
    assert same(retain, Samples(*(part[~gone] for part in TRAIN)))
    assert indices.tolist() == [1, 5, 6, 30]


def test_the_forget_set_is_in_the_order_of_the_request_and_so_are_its_indices_and_replacements() -> None:
    order = (30, 1, 6)
    found = requests.split(TRAIN, asked(*order, replacement=inverted(*order)))
    assert found.indices.tolist() == [30, 1, 6]
    assert torch.equal(found.forget.images, TRAIN.images[[30, 1, 6]])
    assert found.replacement is not None and same(found.replacement, inverted(30, 1, 6))


def test_a_second_request_forgets_only_what_is_still_there() -> None:
    first, second = asked(3, 8, 20), asked(21, 8, 2, 3, replacement=inverted(21, 8, 2, 3))
    forget, retain, indices, put = requests.split(TRAIN, second, [first])
    assert len(retain.labels) == 40 - 3 - 2
    assert torch.equal(forget.images, TRAIN.images[[21, 2]])
    assert put is not None and same(put, inverted(21, 2))
    now, where = requests.standing(TRAIN, [first])
    assert where[indices].tolist() == [21, 2] and indices.tolist() == [18, 2]
    assert torch.equal(now.images[indices], forget.images)
    rest = [index for index in range(40) if index not in (3, 8, 20, 21, 2)]
    assert same(retain, Samples(*(part[rest] for part in TRAIN)))


def test_a_request_asked_for_again_forgets_nothing() -> None:
    found = requests.split(TRAIN, asked(3, 8), [asked(8, 3)])
    assert not len(found.forget.labels) and not len(found.indices) and len(found.retain.labels) == 38


def test_what_was_replaced_is_forgotten_as_it_is_now_and_the_rest_stays_replaced() -> None:
    first = asked(9, 4, 7, replacement=inverted(9, 4, 7))
    forget, retain, indices, _ = requests.split(TRAIN, asked(7, 10), [first])
    assert indices.tolist() == [7, 10], "what is replaced is still in its place"
    assert torch.equal(forget.images[0], inverted(7).images[0]) and torch.equal(forget.images[1], TRAIN.images[10])
    assert forget.labels.tolist() == [*inverted(7).labels.tolist(), int(TRAIN.labels[10])]
    now = replaced(TRAIN, first.indices, inverted(9, 4, 7))
    stays = [index for index in range(40) if index not in (7, 10)]
    assert same(retain, Samples(*(part[stays] for part in now)))


def test_what_was_replaced_and_then_removed_is_gone_and_does_not_come_back() -> None:
    steps = [asked(4, 5, replacement=inverted(4, 5)), asked(5, 6), asked(5, replacement=inverted(5))]
    now, where = requests.standing(TRAIN, steps)
    assert where.tolist() == [index for index in range(40) if index not in (5, 6)]
    assert torch.equal(now.images[4], inverted(4).images[0])
    assert torch.equal(now.images[5:], TRAIN.images[7:]), "the replacement of a sample that is gone changes nothing"


def test_a_float_replacement_brings_the_whole_training_set_to_one_scale() -> None:
    half = Samples(torch.full((1, 1, 8, 8), 0.5), torch.tensor([2]))
    forget, retain, _, _ = requests.split(TRAIN, asked(0), [asked(9, replacement=half)])
    assert forget.images.dtype == retain.images.dtype == torch.float32
    assert torch.equal(retain.images[8], half.images[0]), "sample 9, after sample 0 went"
    assert torch.equal(retain.images[0], pixels(TRAIN.images[1]))


def test_a_chain_that_would_leave_nothing_ends_in_a_sentence() -> None:
    with pytest.raises(RequestError, match="leaves nothing of the training set"):
        requests.split(TRAIN, asked(*range(20)), [asked(*range(20, 40))])


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_mini_batches_hold_the_request_once_and_in_order(size: int) -> None:
    order = (30, 1, 6, 12, 3, 39, 20)
    request = asked(*order, replacement=inverted(*order))
    parts = list(requests.served(request, size))
    assert torch.cat([part.indices for part in parts]).tolist() == list(order)
    assert all(len(part.indices) == size for part in parts[:-1]) and len(parts[-1].indices) <= size
    put = [part.replacement for part in parts if part.replacement]
    assert same(Samples(*(torch.cat(tensors) for tensors in zip(*put, strict=True))), inverted(*order))
    assert [part.replacement for part in requests.served(asked(1, 2), 1)] == [None, None]


def test_requests_one_after_the_other_leave_what_one_request_for_all_leaves() -> None:
    order = (30, 1, 6, 12, 3, 39, 20)
    parts = list(requests.served(asked(*order), 3))
    last = requests.split(TRAIN, parts[-1], parts[:-1])
    assert same(last.retain, requests.split(TRAIN, asked(*order)).retain)


def test_a_step_that_forgets_nothing_new_gets_all_that_was_asked_for_in_that_order() -> None:
    put = inverted(2, 4)
    (found,) = requests.steps(TRAIN, [asked(30, 2), asked(17), asked(2, 4, replacement=put)], same=True)
    order = [30, 2, 17, 4]
    assert same(found.forget, Samples(*(part[order] for part in TRAIN))) and found.indices is None
    assert same(found.retain, requests.standing(TRAIN, [asked(30, 2), asked(17), asked(2, 4, replacement=put)])[0])


def test_a_step_that_forgets_nothing_new_is_told_where_the_samples_stand_that_were_replaced() -> None:
    asks = [asked(30, 2, replacement=inverted(30, 2)), asked(17), asked(2, 4, replacement=inverted(2, 4))]
    (found,) = requests.steps(TRAIN, [asks[0], asks[2]], same=True)
    assert found.indices is not None and found.indices.tolist() == [30, 2, 4] and found.replacement is None
    assert same(Samples(*(part[found.indices] for part in found.retain)), inverted(30, 2, 4))
    (found,) = requests.steps(TRAIN, asks, same=True)
    assert found.indices is None, "sample 17 is gone"


def test_a_step_that_forgets_nothing_new_has_all_that_was_forgotten_as_its_forget_set() -> None:
    first, second = asked(30, 1, 6, 12, 3), asked(7, 6, 20)
    served = [*requests.steps(TRAIN, [first, second], size=2)]
    assert [len(part.forget.labels) for part in served] == [1, 1], "in mini-batches, without what is gone"
    (union,) = requests.steps(TRAIN, [first, second], same=True)
    gone = torch.zeros(40, dtype=torch.bool).index_fill(0, torch.cat([first.indices, second.indices]), True)
    order = [30, 1, 6, 12, 3, 7, 20]
    assert same(union.forget, Samples(*(part[order] for part in TRAIN))) and union.indices is None
    assert same(union.retain, Samples(*(part[~gone] for part in TRAIN))) and same(union.retain, served[-1].retain)
