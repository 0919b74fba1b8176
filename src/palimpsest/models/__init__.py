"""Networks that take pixels in [0, 1], or features, and normalise inside, saved as safetensors.

Each file of this package is one family and has one function, `build(classes, channels, *, ...) -> nn.Module`.
Every attack and every epsilon is then in pixels, whatever network stands behind it. A family of which weights are
published has a second function, `pretrained(net, published) -> Pretrained`, which gives them the names of its own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from palimpsest.data import pixels
from palimpsest.tasks import Task, classification

F = TypeVar("F", bound=nn.Module | torch.Tensor)


class ModelError(Exception):
    """A network cannot be built or read; the message names the file, the fault and what to do."""


class Diverged(Exception):
    """The loss or a number left the finite numbers: this is a result, which a table prints, and not an error."""


@dataclass(frozen=True)
class Spec:
    """What a network is: the file of this package that builds it, its classes, its channels (or features), its
    keywords.

    pretrained: the file of published weights with which its training begins, as `palimpsest.pretrained` keeps them; an
    empty path means fresh weights.
    """

    method: str
    classes: int
    channels: int
    keywords: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str = ""


class Pretrained(NamedTuple):
    """Published weights of a network.

    state: its tensors by the names that the network itself gives them. head: the module that is not taken, since
    another task has a head of its own. mean, std: of each channel (C,), the normalisation that they were trained with.
    """

    state: Mapping[str, torch.Tensor]
    head: str
    mean: Sequence[float]
    std: Sequence[float]


class Network(nn.Module):
    """A network with its normalisation: float pixels in [0, 1], (N, C, H, W), or features (N, D), to its outputs.

    mean, std: of each channel (C,), or in the form that they have beside a batch, (1, C, 1, 1) or (1, D).

    A `net` that says `HIDES = True` is shown a part of each image and answers with images on the scale that it is
    shown, which come back as pixels. It takes keys, `int64` (N,), beside the images: a key decides which part of its
    image is hidden, and the method `visible(keys, height, width)` says which. In evaluation mode the key is made of the
    image (`keys_of`), so that every network hides the same of it; in training mode it is drawn anew for every batch.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: Spec, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        known = {file.stem for file in Path(__file__).parent.glob("[!_]*.py")}
        if spec.method not in known:  # a name from a file, which may be anybody's
            raise ModelError(f"there is no network file models/{spec.method}.py")
        self.spec = spec
        self.net = importlib.import_module(f"{__name__}.{spec.method}").build(
            spec.classes, spec.channels, **spec.keywords
        )
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, (values.reshape(1, -1, 1, 1) if values.ndim == 1 else values).clone())

    @property
    def hides(self) -> bool:
        """Whether a part of every image is hidden from the network."""
        return getattr(self.net, "HIDES", False)

    def forward(self, pixels: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
        """Return the outputs.

        like: the images in whose place `pixels` stand. They decide what is hidden, and what is seen of them stands in
        the answer, so that what was put there counts neither for nor against what the network drew.
        """
        scaled = (pixels - self.mean) / self.std
        if not self.hides:
            return self.net(scaled)
        if self.training:
            keys = torch.randint(2**62, (len(pixels),), device=pixels.device)
        else:
            keys = keys_of(pixels if like is None else like)
        answer = self.net(scaled, keys) * self.std + self.mean
        return answer if like is None else torch.where(self.visible(like), like, answer)

    def visible(self, images: torch.Tensor) -> torch.Tensor:
        """Return which pixels of images (N, C, H, W) in [0, 1] a network that hides some sees: bool (N, 1, H, W)."""
        return self.net.visible(keys_of(images), *images.shape[2:])

    def encoded(self, pixels: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """What the encoder of a network that hides makes of what `keys`, `int64` (N,), leave to be seen of images."""
        return self.net.encode((pixels - self.mean) / self.std, keys)


def asked(model: nn.Module, shown: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What a network answers to `shown` (N, ...), which stand in the place of the images `like`, in [0, 1]."""
    return model(shown, like) if getattr(model, "hides", False) else model(shown)


def keys_of(pixels: torch.Tensor) -> torch.Tensor:
    """A number for each image (N, ...) in [0, 1], `int64` (N,), made of its grey levels alone."""
    levels = pixels.detach().mul(255).round().to(torch.int64).flatten(1)
    return mixed((levels * mixed(torch.arange(1, levels.shape[1] + 1, device=levels.device))).sum(1))


def mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Whole numbers, `int64`, each turned into one that looks drawn at random: the finaliser of SplitMix64.

    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. It counts modulo 2^64.
    """
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        # A shift of a negative number copies its sign; the mask takes that away.
        numbers = (numbers ^ (numbers >> shift & (1 << 64 - shift) - 1)) * factor
    return numbers ^ (numbers >> 31 & (1 << 33) - 1)


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of `uint8` images (N, C, H, W), in [0, 1]: two tensors (C,).

    Features (N, D) are left as they are, zeros and ones (1, D): a network made them on one scale, and dividing each by
    its own deviation would let a change of the same size weigh most where a feature says least (our choice).
    """
    if images.ndim == 2:
        return torch.zeros(1, images.shape[1]), torch.ones(1, images.shape[1])
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.cpu().unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = share @ levels.square() - mean.square()
    return mean.float(), variance.clamp(min=1e-8).sqrt().float()


def create(spec: Spec, mean: torch.Tensor, std: torch.Tensor, seed: int) -> Network:
    """A network before training: with fresh weights that depend on `seed` alone.

    One that begins with published weights has them and their normalisation in place of `mean` and `std`, as each member
    of an ensemble has; only its head is fresh. Raises `ModelError` where they cannot be read or do not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(spec, mean.cpu(), std.cpu())
    if spec.pretrained:
        _begin(network, spec.pretrained)
    return network


def _begin(network: Network, path: str) -> None:
    """Put the published weights at `path` into a network or into each member of an ensemble."""
    try:
        published = load_file(path)
    except Exception as error:  # safetensors raises its own untyped error
        raise ModelError(f"{path} is not a readable file of weights ({error}); delete it and run again") from error
    for name in ("mean", "std"):
        if published[name].shape != getattr(network, name).shape:
            raise ModelError(
                f"{path} holds the weights of a network of {published[name].shape[1]} channels, and these images have "
                f"{network.spec.channels}"
            )
        getattr(network, name).copy_(published.pop(name))
    for net in getattr(network.net, "members", [network.net]):
        net.load_state_dict({**net.state_dict(), **published})


def fresh(model: Network, seed: int) -> Network:
    """A network like `model`, on its device and of its type, as its training began with `seed`."""
    return create(model.spec, model.mean, model.std, seed).to(model.mean)


def finite(made: F, what: str) -> F:
    """`made`, a network or a tensor, as it is, if all its numbers are finite: nothing else can be scored.

    what: what they are, in the plural, for the sentence of `Diverged`, which is raised where one is not.
    """
    for name, tensor in (made.state_dict() if isinstance(made, nn.Module) else {"": made}).items():
        if not bool(tensor.isfinite().all()):
            where = f" ({name})" if name else ""
            raise Diverged(f"{what} are not finite{where}; a smaller step or rate may mend it")
    return made


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode inside the block, and every module back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def save(made: Mapping[int, Network | Diverged], path: Path | str, about: Mapping[int, Mapping[str, str]]) -> None:
    """Write networks by number, or why one diverged, into one safetensors file; its header has `about` and specs."""
    weights = {
        f"{number}/{name}": tensor.detach().cpu().contiguous()
        for number, one in made.items()
        if isinstance(one, Network)
        for name, tensor in one.state_dict().items()
    }
    networks = {
        number: dict(about[number])
        | ({"spec": asdict(one.spec)} if isinstance(one, Network) else {"diverged": str(one)})
        for number, one in made.items()
    }
    # One key: safetensors writes several in an order that changes from call to call, and so the file's hash.
    save_file(weights, str(path), {"about": json.dumps({"networks": networks}, sort_keys=True)})


def metadata(path: Path | str, number: int) -> dict[str, Any]:
    """Return what `save` was given about a network, and its `spec` or why it `diverged`; the weights are not read."""
    return _opened(path, number)[1]


def load(path: Path | str, number: int) -> Network:
    """Read a network that `save` wrote, by its number; nothing is unpickled.

    Raises `Diverged` for a diverged training, and `ModelError` for a file that is foreign, broken or without that
    number.
    """
    file, about = _opened(path, number)
    if "diverged" in about:
        raise Diverged(about["diverged"])
    prefix = f"{number}/"
    state = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
    with torch.random.fork_rng():
        model = Network(Spec(**about["spec"]), state["mean"], state["std"])
    model.load_state_dict(state)
    return model


def _opened(path: Path | str, number: int) -> tuple[Any, dict[str, Any]]:
    try:
        file = safe_open(str(path), framework="pt")
        networks = json.loads(file.metadata()["about"])["networks"]
    except Exception as error:  # safetensors raises its own untyped error
        raise ModelError(f"{path} is not a readable model file ({error}); delete it and run again") from error
    if str(number) not in networks:
        raise ModelError(f"{path} has no network {number}; it has {', '.join(networks)}")
    return file, networks[str(number)]


@torch.inference_mode()
def answers(
    model: nn.Module,
    images: torch.Tensor,
    batch_size: int = 500,
    *,
    task: Task = classification,
    of: str = "the images",
    like: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """What a network answers to images (N, ...), `uint8` or in [0, 1], in evaluation mode, batch by batch.

    like: the images in whose place they stand, by default themselves (see `Network`). Raises `Diverged` after the last
    batch where outputs are not finite, though the weights may be; `of` names the images then.
    """
    model.eval()
    lost = torch.zeros((), dtype=torch.int64, device=images.device)
    places = images if like is None else like
    for batch, stood in zip(images.split(batch_size), places.split(batch_size), strict=True):
        outputs = asked(model, pixels(batch), pixels(stood)).float()
        lost = lost + (~torch.isfinite(outputs)).flatten(1).any(1).sum()
        yield task.answer(outputs)
    if lost:  # one look, so that a card is not waited for at every batch
        raise Diverged(
            f"the network's outputs are not finite for {int(lost)} of {len(images)} of {of}; "
            "a smaller step or rate may mend it"
        )


def predict(
    model: nn.Module,
    images: torch.Tensor,
    batch_size: int = 500,
    *,
    task: Task = classification,
    of: str = "the images",
) -> torch.Tensor:
    """All that `answers` gives as one tensor: of classification softmax probabilities (N, classes), float32."""
    return torch.cat([*answers(model, images, batch_size, task=task, of=of)])
