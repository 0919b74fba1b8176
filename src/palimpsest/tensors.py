"""Tensors to a file whose bytes depend on its contents alone.

safetensors writes the keys of a header's metadata in an order that changes from call to call. A hash of the file would
then say that a result changed where none did, and what depends on it would be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

LENGTH_BYTES = 8  # a little-endian integer before the header: how long that is


def save(tensors: Mapping[str, torch.Tensor], path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, on any device and of any layout, as safetensors with `metadata` in the header."""
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Without tensors and with an empty dictionary safetensors writes a header that it cannot read.
    save_file(contents, str(path), dict(metadata) if metadata else None)
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the same text in another order, or spaced as before
            file.seek(LENGTH_BYTES)
            file.write(text.ljust(length))
