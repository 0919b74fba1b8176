"""Requests: what is drawn, kept, and forgotten of a training set that others asked to change before."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from card import card
from safetensors import safe_open
from safetensors.torch import save_file
from test_unlearners import samples, tiny_model

from palimpsest import models, requests
from palimpsest.data import Images, Samples, pixels, replaced
from palimpsest.requests import Choice, Request, RequestError, Rule

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
    "noise": Rule("noise", {"count": 6}),
}


def labelled(labels: torch.Tensor) -> Images:
    """A data set with these training labels and nothing to see."""
    images, classes = (
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8),
        tuple(map(str, range(int(labels.max()) + 1))),
    )
    return Images.of(classes, train=(images, labels), test=(images[:0], labels[:0]))


def at(seed: int = 3, repetition: int = 0) -> Choice:
    return Choice(seed, repetition, tiny_model(), partial(print), tiny_model(2), kept={})


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


def test_a_model_without_finite_outputs_chooses_nothing() -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(models.Diverged, match="not finite"):
        RULES["margin"].choose(IMAGES, replace(at(), model=model))


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
    assert tuple(*named) == RULES[kind].needs
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
    assert bool(names) == (kind in ("margin", "noise"))
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
