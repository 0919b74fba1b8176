"""Files of tensors: the same contents are the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from palimpsest import tensors


def test_the_same_contents_are_the_same_bytes_whatever_the_order_of_the_metadata(tmp_path: Path) -> None:
    values = {"weights": torch.arange(6.0).reshape(2, 3).T, "labels": torch.arange(3)}
    metadata = {f"key {number}": f'é "{number}" \\ \n' for number in range(8)}
    written = set()
    for turn in range(8):
        order = list(metadata)[turn:] + list(metadata)[:turn]
        tensors.save(values, tmp_path / "file", {key: metadata[key] for key in order})
        written.add((tmp_path / "file").read_bytes())
    assert len(written) == 1
    with safe_open(str(tmp_path / "file"), framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), value) for name, value in values.items())


def test_nothing_and_no_metadata_can_be_read_again(tmp_path: Path) -> None:
    for metadata in (None, {}, {"diverged": "why"}):
        tensors.save({}, tmp_path / "file", metadata)
        with safe_open(str(tmp_path / "file"), framework="pt") as file:
            assert list(file.keys()) == [] and (file.metadata() or {}) == (metadata or {})
