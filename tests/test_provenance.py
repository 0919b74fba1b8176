"""Provenance: the data files behind a result are those that were read, and no others."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from palimpsest.pipeline import provenance


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_sources_are_the_files_read_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("plain", "array.npy", "packed.gz", "unread"):
        (root / name).write_bytes(b"0")
    with (root / "array.npy").open("wb") as file:
        np.save(file, np.arange(3))
    (root / "packed.gz").write_bytes(gzip.compress(b"1"))
    (tmp_path / "elsewhere").write_bytes(b"2")
    with provenance.sources(root) as found:
        (root / "plain").read_bytes()
        np.load(root / "array.npy")
        with gzip.open(root / "packed.gz") as packed:
            packed.read()
        (tmp_path / "elsewhere").read_bytes()
        (root / "written").write_bytes(b"3")
    (root / "unread").read_bytes()
    assert found == {
        str(root / name): sha256((root / name).read_bytes()) for name in ("plain", "array.npy", "packed.gz")
    }


def test_a_root_behind_a_link_is_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"0")
    (tmp_path / "data").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    with provenance.sources("data") as found:
        (tmp_path / "real" / "file").read_bytes()
    assert found == {"data/file": sha256(b"0")}


def test_many_files_are_one_line_for_each_folder_and_kind(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        for index in range(40):
            (tmp_path / folder / f"{index:02}.jpeg").write_bytes(f"{folder} {index}".encode())
    named = {f"data/{file.relative_to(tmp_path)}": file for file in tmp_path.rglob("*.jpeg")}
    found = provenance.digests(named)
    lines = "".join(f"data/dog/{index:02}.jpeg {sha256(f'dog {index}'.encode())}\n" for index in range(40))
    assert found.keys() == {"data/cat/*.jpeg", "data/dog/*.jpeg"}
    assert found["data/dog/*.jpeg"] == sha256(lines.encode())
    (tmp_path / "dog" / "07.jpeg").write_bytes(b"another")
    again = provenance.digests(named)
    assert again["data/dog/*.jpeg"] != found["data/dog/*.jpeg"] and again["data/cat/*.jpeg"] == found["data/cat/*.jpeg"]
