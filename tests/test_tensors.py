"""Files of tensors: the same contents are the same bytes, so that a hash of a file changes with its contents alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[1]

# Writes one file of each kind; the order in which things are named comes from the command line.
PROGRAM = """
import sys
from pathlib import Path
import torch
from palimpsest import data, models, requests
folder, turned = Path(sys.argv[1]), sys.argv[2] == "turned"

def ordered(named):
    return dict(reversed(named.items()) if turned else named.items())

images = torch.arange(64, dtype=torch.uint8).reshape(16, 1, 2, 2)
parts = {name: data.Samples(images.clone(), torch.arange(16) % 2) for name in ("train", "test", "backup")}
known = data.Images(ordered(parts), ("a", "b"))
data.save(known, folder / "data")
net = models.create(models.Spec("small_cnn", 2, 1, {"width": 2, "hidden": 3}), torch.zeros(1), torch.ones(1), 0)
about = ordered({"seed": "1", "data": "é \\\\ \\n", "more": "x"})
models.save(ordered({0: net, 1: models.Diverged("nan")}), folder / "model", ordered({0: about, 1: about}))
models.save({2: models.Diverged("nan")}, folder / "diverged", {2: about})
made = {
    number: requests.Request(torch.tensor([5, number]), data.Samples(images[:2] + number, torch.tensor([0, 1])))
    for number in ordered({2: 2, 3: 3})
}
rule = requests.Rule("noise", ordered({"count": 2, "epsilon": "8/255"}))
requests.write(made, folder / "request", known, rule, {2: 7, 3: 8})
"""


def test_the_same_contents_are_the_same_bytes_in_another_process_and_named_in_another_order(tmp_path: Path) -> None:
    written = []
    for turn in ("as_given", "turned"):
        folder = tmp_path / turn
        folder.mkdir()
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": str(len(turn))}
        subprocess.run([sys.executable, "-c", PROGRAM, str(folder), turn], env=env, check=True)
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert written[0].keys() == {"data", "model", "diverged", "request"}
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["data", "model", "diverged", "request"])
def test_every_header_has_one_key(name: str, tmp_path: Path) -> None:
    """safetensors writes several keys in an order that changes from call to call."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), ""], env=env, check=True)
    with safe_open(str(tmp_path / name), framework="pt") as file:
        assert list(file.metadata()) == ["about"]
