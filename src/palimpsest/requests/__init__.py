"""Requests: what shall be forgotten, in which order, and perhaps what shall stand in its place.

Each file of this package is one kind of request and has one function,

    choose(images, at, *, ...) -> Request

`at` is what the workflow gives, a `Choice`; what stands after `*` are the kind's own keywords. A kind that needs more
than the data and a seed declares it: `NEEDS = ("model",)`, any of the fields `model`, `unlearner`, `surrogates` and
`kept`.

A kind that is chosen faster for several repetitions at once has a second function beside it,

    choose_all(images, ats, *, ...) -> list of Request, what `choose` gives for each of the choices `ats`

A kind that takes some of its samples from another kind names that in the keyword `hostile`; it then needs what that one
needs. A kind that reads a file says in which keyword its path stands: `READS = ("path",)`; its content is then part of
the request's key.

Indices count into the training set as it was before anything was forgotten, whatever was forgotten since; `split` finds
them in what is left. The UMA paper forgets whole classes or 5,000 random images (Section 5.1). The label-leakage paper
forgets one class, three, or up to nine at random (its Section VI). The healing paper serves its requests in
mini-batches (its Section 5.1), and the malicious paper replaces images by changed ones (its Section 3.2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from palimpsest.data import Images, Samples, replaced
from palimpsest.models import Diverged, Network

if TYPE_CHECKING:
    from palimpsest.train import Recipe


class RequestError(Exception):
    """A request cannot be chosen, read or served; the message names the fault and what to do."""


@dataclass(frozen=True)
class Aim:
    """What a request is made to do to a model: how it shall answer some test samples.

    indices: `int64` (a,), into the test split. labels: `int64` (a,), the class that each shall be taken for, or `ANY`
    where any class but its own will do. Both on the CPU.
    """

    indices: torch.Tensor
    labels: torch.Tensor


ANY = -1  # in the place of a class that a request is aimed at: any but the sample's own


@dataclass(frozen=True)
class Request:
    """What shall be forgotten.

    indices: `int64` (n,), into the whole training set, in the order in which they are served; on the CPU. replacement:
    what shall stand in the place of each, or None where it shall be removed. Images are `uint8`, or floats in [0, 1];
    their labels may differ from those before. Features are `float32`. aim: what the request is made for, where that is
    known. trace: float (steps + 1,), what its maker lowered, at first and after each step.
    """

    indices: torch.Tensor
    replacement: Samples | None = None
    aim: Aim | None = None
    trace: torch.Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """What a request is chosen with.

    seed: of all that is random. repetition: which of several that are compared, from 0. model: a network of the chain
    so far. unlearner: what a crafted request is made against, the method's function; its settings are `.keywords`.
    surrogates: networks that stand in for `model` where that is not known. kept: the tensors that the base training or
    the last step left beside `model`. A kind that does not name them in `NEEDS` gets none of them; but `kept` is there
    wherever `unlearner` is, and so are recipe, how the base models were trained, and initial, which makes the
    network with which their training began, both as the `Step` of `unlearner` takes them.
    """

    seed: int
    repetition: int = 0
    model: Network | None = None
    unlearner: partial[Any] | None = None
    surrogates: tuple[Network, ...] = ()
    recipe: Recipe | None = None
    kept: Mapping[str, torch.Tensor] | None = None
    initial: Callable[[], Network] | None = None


@dataclass(frozen=True)
class Rule:
    """How requests are chosen: a file of this package, and its keywords.

    spares: the split in which there must be a spare for each sample that is asked for, of its class; none by default.
    """

    method: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    spares: str = ""

    def choose(self, images: Images, at: Choice) -> Request:
        """The request, checked; `RequestError` where the data has none such or `at` lacks what the kind needs."""
        return self.choose_all(images, [at])[0]

    def choose_all(self, images: Images, ats: Sequence[Choice]) -> list[Request]:
        """The request of each choice, all at once where the kind can; else as `choose`."""
        for at in ats:
            if lacking := [name for name in self.needs if getattr(at, name) is None]:
                raise RequestError(f"{self.method}: the request is chosen with `{lacking[0]}`, and none was given")
        module = self._module()
        if self.chooses_all and len(ats) > 1:
            made = module.choose_all(images, ats, **self.keywords)
        else:
            made = [module.choose(images, at, **self.keywords) for at in ats]
        for request in made:
            check(images, request)
            if self.spares:
                _check_spares(images, request, self.spares)
        return made

    @property
    def chooses_all(self) -> bool:
        """Whether the kind can choose several requests at once."""
        return hasattr(self._module(), "choose_all")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the kind, and the one that it takes samples from, need besides the data and a seed."""
        return self._declared("NEEDS")

    @property
    def is_enough(self) -> bool:
        """Whether the rule, the data and a seed are all that decides the request."""
        return not self._declared("NEEDS") and not self._declared("READS")

    def _declared(self, name: str) -> tuple[str, ...]:
        inner = self.keywords.get("hostile")
        return (*getattr(self._module(), name, ()), *(Rule(inner)._declared(name) if inner else ()))

    def _module(self) -> Any:
        if self.method not in {file.stem for file in Path(__file__).parent.glob("[!_]*.py")}:  # a name from a file
            raise RequestError(f"there is no kind of request requests/{self.method}.py")
        return import_module(f"{__name__}.{self.method}")


def check(images: Images, request: Request, keep_classes: bool = False) -> Request:
    """Return `request`, or raise `RequestError` where it does not fit the training set of `images`.

    keep_classes: whether a class that would have no sample left is a fault too.
    """
    labels, replacement = images.train_labels.cpu(), request.replacement
    asked = _asked(request.indices, len(labels))
    if replacement is not None:
        _check_replacement(images, len(request.indices), replacement)
    if request.aim is not None:
        _check_aim(images, request.aim)
    if request.trace is not None and (request.trace.ndim != 1 or not request.trace.is_floating_point()):
        raise RequestError(f"a request's trace must be floats (steps,), found {tuple(request.trace.shape)}")
    if keep_classes:
        left = {*labels[~asked].tolist(), *(replacement.labels.tolist() if replacement else ())}
        if gone := sorted(set(labels.tolist()) - left):
            raise RequestError(f"the request leaves no sample of class {gone[0]}, which it must keep")
    return request


def _check_spares(images: Images, request: Request, split: str) -> None:
    """Raise `RequestError` where `split` has fewer samples of a class than the request names."""
    kinds = (images.train_labels[request.indices], images.splits[split].labels)
    asked, there = (torch.bincount(labels.cpu(), minlength=len(images.classes)).tolist() for labels in kinds)
    for name, wanted, left in zip(images.classes, asked, there, strict=True):
        if wanted > left:
            raise RequestError(
                f"the request names {wanted} samples of class {name!r}, and {split!r} has {left} that could take their "
                "places; hold back a larger share or ask for fewer"
            )


def _asked(indices: torch.Tensor, count: int) -> torch.Tensor:
    """Return which of `count` training samples are named, bool (count,); `RequestError` for indices that cannot be."""
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise RequestError(f"a request's indices must be int64 (n,), found {indices.dtype} {tuple(indices.shape)}")
    outside = indices[(indices < 0) | (indices >= count)]
    if len(outside):
        raise RequestError(f"a request names training sample {int(outside[0])}; there are 0..{count - 1}")
    times = torch.bincount(indices, minlength=count)
    if (times > 1).any():
        raise RequestError(f"a request names training sample {int(times.argmax())} twice")
    if bool(times.all()):
        raise RequestError("the forget set is the whole training set: nothing is left to retain")
    return times > 0


def _check_replacement(images: Images, count: int, replacement: Samples) -> None:
    values, labels = replacement
    shape = (count, *images.train_images.shape[1:])
    if values.shape != shape or labels.shape != shape[:1] or labels.dtype != torch.int64:
        raise RequestError(
            f"a request's replacements must be one for each of its samples, {shape} with int64 labels, "
            f"found {tuple(values.shape)} with {labels.dtype} labels {tuple(labels.shape)}"
        )
    if not values.is_floating_point() and (values.dtype != torch.uint8 or images.kind == "features"):
        raise RequestError(f"a request's replacements must be uint8 images or floats, found {values.dtype}")
    low, high = (0, 1) if images.kind == "images" else (-torch.inf, torch.inf)
    if values.is_floating_point() and not (values.isfinite() & (low <= values) & (values <= high)).all():
        raise RequestError(f"a request's replacements must be finite and in [{low}, {high}]")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(images.classes):
        raise RequestError(
            f"a request's replacements must have labels in 0..{len(images.classes) - 1}, "
            f"found {int(labels.min())}..{int(labels.max())}"
        )


def _check_aim(images: Images, aim: Aim) -> None:
    shapes = tuple(aim.indices.shape), tuple(aim.labels.shape)
    if {aim.indices.dtype, aim.labels.dtype} != {torch.int64} or aim.indices.ndim != 1 or len({*shapes}) > 1:
        raise RequestError(f"a request's aim must be int64 indices and labels (a,), found {shapes[0]} and {shapes[1]}")
    for what, found, low, high in (
        ("test sample", aim.indices, 0, len(images.splits["test"].labels) - 1),
        ("class", aim.labels, ANY, len(images.classes) - 1),
    ):
        if len(outside := found[(found < low) | (found > high)]):
            raise RequestError(f"a request is aimed at {what} {int(outside[0])}; there are {max(low, 0)}..{high}")


def served(request: Request, size: int) -> Iterator[Request]:
    """Yield the request in mini-batches of up to `size` samples, each a request of its own, in order."""
    for start in range(0, len(request.indices), size):
        part = slice(start, start + size)
        put = request.replacement
        yield Request(request.indices[part], Samples(*(tensor[part] for tensor in put)) if put else None)


class Split(NamedTuple):
    """The training set as a request divides it; all on the samples' device.

    forget: the request's samples, in its order. retain: all others, in the order of the training set; for a step that
    has no request of its own, all (`steps`). indices: `int64`, the positions of `forget`'s samples, in their order, in
    the training set as it is now; None where these samples are gone already. replacement: what shall stand in their
    places, or None.
    """

    forget: Samples
    retain: Samples
    indices: torch.Tensor | None
    replacement: Samples | None


def standing(samples: Samples, already: Sequence[Request] = ()) -> tuple[Samples, torch.Tensor]:
    """Return the training set after the requests `already`, and the index that each of its samples had at first (N,).

    samples: the whole training set. What was removed is gone; what was replaced is there as it is now. Pixels are
    floats once a request brought floats. A sample that is gone can be neither removed nor replaced again.
    """
    there = torch.ones(len(samples.labels), dtype=torch.bool, device=samples.labels.device)
    for request in already:
        indices = request.indices.to(there.device)
        if request.replacement is None:
            there[indices] = False
        else:
            samples = replaced(samples, indices, request.replacement)
    return Samples(*(part[there] for part in samples)) if already else samples, there.nonzero().flatten()


def split(samples: Samples, request: Request, already: Sequence[Request] = ()) -> Split:
    """Divide the training set, as it is after the requests `already`, into what `request` names and the rest.

    samples: the whole training set, as `images.splits["train"]`. A sample that is gone is not forgotten again. Raises
    `RequestError` for indices that cannot be, and where nothing would be left.
    """
    _asked(request.indices, len(samples.labels))
    now, first = standing(samples, already)
    asked = request.indices.to(first.device)
    left = torch.isin(asked, first)
    indices = torch.searchsorted(first, asked[left])
    stays = torch.ones(len(first), dtype=torch.bool, device=first.device)
    stays[indices] = False
    if not stays.any():
        raise RequestError("with what was forgotten before, the request leaves nothing of the training set")
    put = request.replacement
    return Split(
        Samples(*(part[indices] for part in now)),
        Samples(*(part[stays] for part in now)),
        indices,
        Samples(*(part.to(first.device)[left] for part in put)) if put else None,
    )


def steps(samples: Samples, asked: Sequence[Request], *, same: bool = False, size: int = 0) -> Iterator[Split]:
    """Yield what a step of a chain serves: the last of the requests `asked`, after those before it, `size` samples at
    once.

    samples: the whole training set. size: 0 serves the request whole. same: whether the step has no request of its own
    and follows all of `asked`; its forget set is then the union of these, each sample as it was at first and in the
    order in which it was asked for first, its `retain` the whole training set as it stands, and `indices` count into
    that: the samples were all replaced. They are None where any of them is gone.
    """
    if same:
        order = torch.tensor(list(dict.fromkeys(torch.cat([one.indices for one in asked]).tolist())))
        stands, first = standing(samples, asked)
        order = order.to(first.device)
        indices = torch.searchsorted(first, order) if torch.isin(order, first).all() else None
        yield Split(Samples(*(part[order] for part in samples)), stands, indices, None)
        return
    *already, now = asked
    for part in served(now, size) if size else [now]:
        yield split(samples, part, already)
        already.append(part)


def all_of(samples: Samples, asked: Sequence[Request]) -> tuple[Samples, Samples]:
    """Return every sample that some request names, as it was at first, and all other samples; both in order."""
    chosen = torch.zeros(len(samples.labels), dtype=torch.bool, device=samples.labels.device)
    for request in asked:
        chosen[request.indices.to(chosen.device)] = True
    return Samples(*(part[chosen] for part in samples)), Samples(*(part[~chosen] for part in samples))


def aim_of(asked: Sequence[Request]) -> dict[str, torch.Tensor]:
    """Return what the last of these requests that is aimed at anything is aimed at, as tensors by name: `aim/indices`,
    `aim/labels` and, where it was kept, `aim/trace`; none where no request has an aim.
    """
    for one in reversed(asked):
        if one.aim is not None:
            of_steps = {} if one.trace is None else {"aim/trace": one.trace.cpu()}
            return {"aim/indices": one.aim.indices.cpu(), "aim/labels": one.aim.labels.cpu()} | of_steps
    return {}


def write(
    made: Mapping[int, Request | Diverged],
    path: Path | str,
    images: Images,
    rule: Rule,
    seeds: Mapping[int, int],
    *,
    once: bool = False,
) -> None:
    """Write requests by number, the repetition for which `rule` chose them, each with its seed.

    Where the rule is enough, the file holds no sample, and `read` chooses again. For any other rule it holds
    `{number}/indices`, what it is aimed at under `{number}/aim/` (see `aim_of`), and, where there are replacements,
    `{number}/images` and `{number}/labels`. A `Diverged` stands for a request that should have been chosen with a model
    that diverged.
    once: whether the request of repetition 0 is what all repetitions serve.
    """
    tensors: dict[str, torch.Tensor] = {}
    requests: dict[int, dict[str, Any]] = {}
    for number, one in made.items():
        if isinstance(one, Diverged):
            requests[number] = {"seed": seeds[number], "diverged": str(one)}
            continue
        requests[number] = {"seed": seeds[number], "count": len(one.indices), "sha256": _hash(one.indices)}
        if one.replacement or not rule.is_enough:
            tensors[f"{number}/indices"] = one.indices
            tensors |= {f"{number}/{name}": tensor for name, tensor in aim_of([one]).items()}
        if one.replacement:
            parts = one.replacement._asdict().items()
            tensors |= {f"{number}/{name}": tensor.cpu().contiguous() for name, tensor in parts}
    chosen_by = {"method": rule.method, "keywords": rule.keywords}
    about = {**chosen_by, "data": images.digest, "requests": requests, "once": once}
    # One key: safetensors writes several in an order that changes from call to call, and so the file's hash.
    save_file(tensors, str(path), {"about": json.dumps(about, sort_keys=True)})


def read(path: Path | str, images: Images, number: int) -> Request:
    """Return the request of repetition `number` that `write` wrote, checked; it is chosen again where the file holds
    its rule alone.

    Raises `RequestError` where the file is broken or has no such number, where the request was chosen from other data,
    and where the rule gives another request than it did; `Diverged` where the model behind it diverged.
    """
    try:
        file = safe_open(str(path), framework="pt")
        about = json.loads(file.metadata()["about"])
        requests, rule = about["requests"], Rule(about["method"], about["keywords"])
    except Exception as error:  # safetensors raises its own untyped error
        raise RequestError(f"{path} is not a readable request file ({error}); delete it and run again") from error
    number = 0 if about.get("once") else number
    if str(number) not in requests:
        raise RequestError(f"{path} has no request {number}; it has {', '.join(requests)}")
    one = requests[str(number)]
    if about["data"] != images.digest:
        raise RequestError(f"{path} was chosen from other data; delete it and run again")
    if "diverged" in one:
        raise Diverged(one["diverged"])
    names = set(file.keys())
    if f"{number}/indices" in names:

        def some(*parts: str) -> list[torch.Tensor]:
            """Return the tensors of these names; none where the file has not the first."""
            return [file.get_tensor(f"{number}/{part}") for part in parts if f"{number}/{parts[0]}" in names]

        put, aim, trace = some(*Samples._fields), some("aim/indices", "aim/labels"), some("aim/trace")
        request = Request(
            file.get_tensor(f"{number}/indices"),
            Samples(*put) if put else None,
            Aim(*aim) if aim else None,
            trace[0] if trace else None,
        )
    elif rule.is_enough:
        request = rule.choose(images, Choice(one["seed"], number))
    else:  # nobody wrote it so, and a path in it may be any file's
        raise RequestError(f"{path} lacks the samples of its request; delete it and run again")
    if _hash(request.indices) != one["sha256"]:
        raise RequestError(f"{path} does not give the request that it did; delete it and run again")
    return check(images, request)


def _hash(indices: torch.Tensor) -> str:
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()
