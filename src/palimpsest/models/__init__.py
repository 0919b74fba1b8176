"""Networks that take pixels in [0, 1] and normalise inside, saved as safetensors.

Each file of this package is one family and has one function, `build(classes, channels, *, ...) -> nn.Module`.
Every attack and every epsilon is then in pixels, whatever network stands behind it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn

from palimpsest import tensors
from palimpsest.data import pixels

M = TypeVar("M", bound=nn.Module)


class ModelError(Exception):
    """A network cannot be built or read; the message names the file, the fault and the mend."""


class Diverged(Exception):
    """The loss left the numbers: a result of its own, which a table prints, not an error."""


@dataclass(frozen=True)
class Spec:
    """What a network is: the file of this package that builds it, its keywords, classes and channels."""

    method: str
    classes: int
    channels: int
    keywords: Mapping[str, Any] = field(default_factory=dict)


class Network(nn.Module):
    """A network with its normalisation: float pixels in [0, 1], (N, C, H, W), to logits (N, classes)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: Spec, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        known = {file.stem for file in Path(__file__).parent.glob("*.py")} - {"__init__"}
        if spec.method not in known:  # a name from a file, which may be anybody's
            raise ModelError(f"there is no network file models/{spec.method}.py")
        self.spec = spec
        self.net = importlib.import_module(f"{__name__}.{spec.method}").build(
            spec.classes, spec.channels, **spec.keywords
        )
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).clone())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.net((pixels - self.mean) / self.std)


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of `uint8` images (N, C, H, W), in [0, 1]: two tensors (C,)."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.cpu().unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = share @ levels.square() - mean.square()
    return mean.float(), variance.clamp(min=1e-8).sqrt().float()


def create(spec: Spec, mean: torch.Tensor, std: torch.Tensor, seed: int) -> Network:
    """A network with fresh weights that depend on `seed` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(spec, mean.cpu(), std.cpu())


def size(spec: Spec) -> int:
    """Bytes of a network's weights and buffers, known without making them."""
    with torch.device("meta"):
        network = Network(spec, torch.zeros(spec.channels), torch.ones(spec.channels))
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def fresh(model: Network, seed: int) -> Network:
    """A network like `model`, on its device and of its type, with fresh weights that depend on `seed` alone."""
    return create(model.spec, model.mean, model.std, seed).to(model.mean)


def finite(model: M, after: str) -> M:
    """`model`; raises `Diverged` where a number of it is not finite, and says after what."""
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise Diverged(f"{name} is not finite after {after}; a lower learning rate mends it")
    return model


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def save(model: Network, path: Path | str, **metadata: str) -> None:
    """Write weights and buffers as safetensors; the spec and `metadata` go into the file's header."""
    tensors.save(model.state_dict(), path, {"spec": _text(model.spec), **metadata})


def save_diverged(path: Path | str, reason: str) -> None:
    """Write the file of a network that training lost: no weights, and why."""
    tensors.save({}, path, {"diverged": reason})


def save_several(
    made: Mapping[int, Network | Diverged], path: Path | str, metadata: Mapping[int, Mapping[str, str]]
) -> None:
    """Write several networks, or why there is none, into one file; by number, `metadata` too."""
    headers = {
        number: {
            **metadata[number],
            **({"spec": _text(one.spec)} if isinstance(one, Network) else {"diverged": str(one)}),
        }
        for number, one in made.items()
    }
    weights = {
        f"{number}/{name}": tensor
        for number, one in made.items()
        if isinstance(one, Network)
        for name, tensor in one.state_dict().items()
    }
    tensors.save(weights, path, {"several": json.dumps(headers, sort_keys=True)})


def metadata(path: Path | str, number: int = 0) -> dict[str, str]:
    """The header of a saved network, without reading its weights; `number` chooses one of several in the file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
    except Exception as error:  # safetensors raises its own untyped error
        raise ModelError(f"{path} is not a readable model file ({error}); delete it and run again") from error
    if "several" not in header:
        return header
    headers: dict[str, dict[str, str]] = json.loads(header["several"])
    if str(number) not in headers:
        raise ModelError(f"{path} has no network {number}; it has {', '.join(headers)}")
    return {"several": "yes", **headers[str(number)]}


def load(path: Path | str, number: int = 0) -> Network:
    """Read what `save` or, by number, `save_several` wrote; nothing is unpickled.

    Raises `Diverged` for the file of a diverged training, `ModelError` for a foreign or a broken one.
    """
    header = metadata(path, number)
    if "diverged" in header:
        raise Diverged(header["diverged"])
    if "spec" not in header:
        raise ModelError(f"{path} does not say which network it is; delete it and run again")
    spec = Spec(**json.loads(header["spec"]))
    prefix = f"{number}/" if "several" in header else ""
    with torch.random.fork_rng(), safe_open(str(path), framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]
        state = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        model = Network(spec, state["mean"], state["std"])
    model.load_state_dict(state)
    return model


def _text(spec: Spec) -> str:
    return json.dumps(asdict(spec), sort_keys=True)


def predict(model: nn.Module, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Softmax probabilities (N, classes), float32, of images (N, C, H, W), `uint8` or in [0, 1], in evaluation mode."""
    model.eval()
    parts: Sequence[torch.Tensor]
    with torch.inference_mode():
        parts = [torch.softmax(model(pixels(batch)).float(), 1) for batch in images.split(batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, 0)
