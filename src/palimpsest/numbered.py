"""Tensors of several repetitions in one safetensors file, by number, with further plain values of each.

Tensors are named `{number}/{name}`. The header has one key, `about`, a JSON object by number. With several keys
safetensors would write them in an order that changes from call to call, and a hash of the file would say that a result
changed where none did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save(
    made: Mapping[int, Mapping[str, torch.Tensor]], path: Path | str, about: Mapping[int, Mapping[str, Any]]
) -> None:
    """Write the tensors of each repetition, from any device and in any layout; `about` holds plain values."""
    # Copies, since repetitions may share a tensor, and safetensors wants no two names for one memory.
    tensors = {
        f"{number}/{name}": tensor.detach().cpu().contiguous().clone()
        for number, own in made.items()
        for name, tensor in own.items()
    }
    header = {str(number): dict(about.get(number, {})) for number in {**made, **about}}
    save_file(tensors, str(path), {"about": json.dumps(header, sort_keys=True)})


def about(path: Path | str) -> dict[int, dict[str, Any]]:
    """Return the plain values of each repetition in a file."""
    with safe_open(str(path), framework="pt") as file:
        return {int(number): own for number, own in json.loads((file.metadata() or {})["about"]).items()}


def read(path: Path | str, number: int, device: torch.device | str = "cpu", below: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of one repetition; only those whose names begin with `below`, if that is given."""
    with safe_open(str(path), framework="pt", device=str(device)) as file:
        start = f"{number}/"
        names = [name for name in file.keys() if name.startswith(f"{start}{below}")]
        return {name.removeprefix(start): file.get_tensor(name) for name in names}
