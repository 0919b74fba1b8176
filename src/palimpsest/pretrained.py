"""Published weights: a file is found, checked, read without trusting it, and kept under a network's own names.

It lies in the data root or belongs to an installed package; nothing is downloaded. What is kept is safetensors: `mean`
and `std` (1, C, 1, 1), and the tensors of the network by its own names, without those of its head.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch

from palimpsest.models import ModelError

FOLDER = "weights"  # below the data root
# What the published networks here were trained for: the classes of ImageNet, colour images.
CLASSES, CHANNELS = 1000, 3


def find(root: Path, *, file: str, sha256: str, url: str = "", package: str = "") -> tuple[Path, str]:
    """Return the path of a published file, and as a clause how to get it anew.

    file: its name in `root`/weights, where it comes from `url`; or its path within the installed `package`, which may
    name a version, `package==1.0`. Raises `ModelError` where the package is not installed.
    """
    if not package:
        return root / FOLDER / file, f"get it from {url} and put it there under this name"
    try:
        path = importlib.metadata.distribution(package.partition("==")[0]).locate_file(file)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"{file}: expected the package {package}, found none; pip install {package}") from error
    return Path(str(path)), f"pip install --force-reinstall {package}"


def read(path: Path, sha256: str, mend: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors` file or of one that torch saved, by name, once its SHA-256 is right.

    In the latter they may stand under the one word `model`. Nothing but tensors and plain containers is unpickled.
    Raises `ModelError` for a file that is missing, another, or no table of tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _fault(path, f"a file with sha256 {sha256}", f"none ({error.strerror})", mend) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise _fault(path, f"sha256 {sha256}", f"sha256 {found} in {len(data)} bytes", mend)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many, and some of no common type
        raise _fault(path, "a file of tensors", str(error).partition("\n")[0], mend) from error
    if isinstance(tensors, Mapping) and isinstance(tensors.get("model"), Mapping):
        tensors = tensors["model"]
    if not isinstance(tensors, Mapping) or not all(isinstance(one, torch.Tensor) for one in tensors.values()):
        raise _fault(path, "tensors by name", f"a {type(tensors).__name__}", mend)
    return dict(tensors)


def fitted(
    published: Mapping[str, torch.Tensor], network: ModuleType, keywords: Mapping[str, Any], path: Path, mend: str
) -> dict[str, torch.Tensor]:
    """Return what is kept of the published tensors for a network: a file of models/ and its keywords.

    path, mend: of the file that they came from. Raises `ModelError` where they are not the weights of this network.
    """
    with torch.random.fork_rng():
        net = network.build(CLASSES, CHANNELS, **keywords)
    found = network.pretrained(net, published)
    own = net.state_dict()
    # BatchNorm counts its batches to no effect, and older files have no count.
    state = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | dict(found.state)
    if wrong := sorted(own.keys() ^ state.keys()):
        here = "no" if wrong[0] in own else "a tensor"
        raise _fault(path, f"the {len(own)} tensors of {_name(network)}", f"{here} {wrong[0]}", mend)
    if wrong := [name for name, tensor in own.items() if tensor.shape != state[name].shape]:
        expected, shape = tuple(own[wrong[0]].shape), tuple(state[wrong[0]].shape)
        raise _fault(path, f"{expected} as the shape of {_name(network)}'s {wrong[0]}", f"{shape}", mend)
    body = {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith(f"{found.head}.")}
    statistics = {"mean": torch.tensor(found.mean), "std": torch.tensor(found.std)}
    return body | {name: values.reshape(1, -1, 1, 1) for name, values in statistics.items()}


def _name(network: ModuleType) -> str:
    return network.__name__.rpartition(".")[2]


def _fault(path: Path, expected: str, found: str, mend: str) -> ModelError:
    return ModelError(f"{path}: expected {expected}, found {found}; {mend}")
