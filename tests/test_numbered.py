"""Files of several repetitions: each comes back under its own number, bit for bit, and nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from palimpsest import numbered


def test_each_repetition_comes_back_under_its_number_and_not_its_place(tmp_path: Path) -> None:
    made = {
        7: {"images": torch.arange(6, dtype=torch.uint8).reshape(2, 3), "loss": torch.tensor([0.5, float("inf")])},
        3: {"images": torch.zeros(0, 3, dtype=torch.int64)},
    }
    numbered.save(made, tmp_path / "file", {7: {"on": "forget", "epsilons": ["8/255"]}})
    for number, tensors in made.items():
        found = numbered.read(tmp_path / "file", number)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert numbered.about(tmp_path / "file") == {3: {}, 7: {"on": "forget", "epsilons": ["8/255"]}}


def test_a_number_is_not_taken_for_another_that_begins_like_it(tmp_path: Path) -> None:
    numbered.save({1: {"x": torch.ones(1)}, 10: {"x": torch.zeros(1), "y": torch.ones(1)}}, tmp_path / "file", {})
    assert numbered.read(tmp_path / "file", 1).keys() == {"x"} and numbered.read(tmp_path / "file", 1)["x"].item() == 1
    assert numbered.read(tmp_path / "file", 10).keys() == {"x", "y"}
    assert numbered.read(tmp_path / "file", 100) == {}


def test_a_name_may_have_slashes_of_its_own(tmp_path: Path) -> None:
    numbered.save({0: {"attacked/uma/8/255": torch.ones(2)}}, tmp_path / "file", {})
    assert numbered.read(tmp_path / "file", 0).keys() == {"attacked/uma/8/255"}


def test_a_repetition_without_tensors_still_says_what_became_of_it(tmp_path: Path) -> None:
    numbered.save({0: {"x": torch.ones(1)}, 1: {}}, tmp_path / "file", {1: {"diverged": "nan"}})
    assert numbered.about(tmp_path / "file")[1] == {"diverged": "nan"}
    assert numbered.read(tmp_path / "file", 1) == {}
    numbered.save({}, tmp_path / "empty", {4: {"diverged": "nan"}})
    assert numbered.about(tmp_path / "empty") == {4: {"diverged": "nan"}}


def test_tensors_of_any_layout_and_one_memory_for_two_are_written(tmp_path: Path) -> None:
    weights = torch.rand(4, 2, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    shared = torch.arange(10.0)
    made = {
        0: {"weights": weights, "turned": torch.rand(3, 5).T, "all": shared, "part": shared[2:4]},
        1: {"all": shared},
    }
    numbered.save(made, tmp_path / "file", {})
    for name, tensor in made[0].items():
        assert torch.equal(numbered.read(tmp_path / "file", 0)[name], tensor)
    assert torch.equal(numbered.read(tmp_path / "file", 1)["all"], shared)


def test_the_same_contents_are_the_same_bytes_in_whatever_order_they_come(tmp_path: Path) -> None:
    one, other = {"x": torch.ones(2), "y": torch.zeros(3)}, {"z": torch.ones(1)}
    about = {"b": 1, "a": ["é"]}
    numbered.save({0: one, 1: other}, tmp_path / "given", {0: about, 1: {"c": None}})
    turned = {name: one[name] for name in reversed(one)}
    numbered.save({1: other, 0: turned}, tmp_path / "turned", {1: {"c": None}, 0: dict(reversed(about.items()))})
    assert (tmp_path / "given").read_bytes() == (tmp_path / "turned").read_bytes()
    with safe_open(str(tmp_path / "given"), framework="pt") as file:
        assert list(file.metadata()) == ["about"], "safetensors writes several keys in an order that changes"


def test_a_file_of_another_kind_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x80\x04}.")  # an empty dictionary, pickled
    with pytest.raises(SafetensorError):
        numbered.read(tmp_path / "file", 0)
    with pytest.raises(SafetensorError):
        numbered.about(tmp_path / "file")
