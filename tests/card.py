"""A pretended card: tensors that lie on another device by name and hold their numbers on the CPU.

What CUDA refuses is refused here too: an operation on tensors of two devices, a CPU generator that draws on the card,
`.numpy()` of a tensor there. What CUDA admits is admitted: copies, single CPU numbers, a CPU index into a tensor there.
Where there is a real card the tests take that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

REAL = torch.cuda.is_available()
# An index that no CPU has: the type needs no driver, and PyTorch compares devices with their index.
CARD = torch.device("cuda", 0) if REAL else torch.device("cpu", 1)
ADMITTED = {  # operations that take tensors of both devices
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
}
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class DeviceError(RuntimeError):
    """What a card would have refused."""


class OnCard(torch.Tensor):
    """A tensor on the pretended card; `held` is the same on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCard:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CARD,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"OnCard({self.held})"

    # These are no operations, so that no dispatch sees them.
    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self, *, force: bool = False) -> Any:
        raise DeviceError("numpy() of a tensor on the card")

    def tolist(self) -> Any:
        return self.held.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class _Pretended(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """`torch.tensor` fills a tensor where no dispatch sees it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if function is torch.tensor else None
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result on the card where a card's would lie; `DeviceError` where it would fail."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, OnCard) for tensor in tensors)
    lies_there = there
    if kwargs.get("device") is not None:
        lies_there = torch.device(kwargs["device"]) == CARD
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if lies_there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise DeviceError(f"{function}: a CPU generator draws on the card")
    asked = tree_leaves(args[0]) if function in INDEXED and isinstance(args[0], OnCard) else tensors
    mixed = there and any(not isinstance(one, OnCard) and one.ndim for one in asked if isinstance(one, torch.Tensor))
    if mixed and function not in ADMITTED:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in tensors)
        raise DeviceError(f"{function}: tensors on two devices: {shapes}")
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, OnCard) else leaf, (args, kwargs))
    if function is torch.ops.aten._efficientzerotensor.default:  # has no memory, which only a dispatch above knows
        function = torch.ops.aten.zeros.default
    made = function(*args, **kwargs)
    if not lies_there:
        return made
    with torch.inference_mode(False):  # which a wrapper cannot be made in; what it holds is
        return tree_map(lambda leaf: OnCard(leaf) if isinstance(leaf, torch.Tensor) else leaf, made)


@contextmanager
def card() -> Iterator[torch.device]:
    """A device that is not the CPU: a real card, else the pretended one."""
    if REAL:
        yield CARD
        return
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else module.to() keeps the CPU's tensor objects
    try:
        with _Pretended(), _FromNumbers():
            yield CARD
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
