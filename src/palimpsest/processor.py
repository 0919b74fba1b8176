"""What the processor computes well: where bfloat16 is worth its rounding, and in which memory layout networks train.

A recipe with `precision: bfloat16` uses bfloat16 where the hardware has it. On a processor without it oneDNN emulates
it, and a ResNet-18 then trains 24 images a second instead of 134 in float32 (two cores with AVX2 only). With
`ONEDNN_MAX_CPU_ISA=AVX2` a newer processor behaves like such an older one, in this module too.
"""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

FEWEST_CHANNELS = 8  # from here on the convolution of `layout` is right everywhere


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the hardware of `device` computes products of bfloat16 matrices itself, without emulation."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in `precision`: `float32`, or `bfloat16` where the hardware has
    it.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16" and has_bfloat16(device))


def layout(model: nn.Module, device: torch.device | str) -> torch.memory_format:
    """Return the memory format to train `model` in: channels-last, 1.1 to 1.2 times as fast
    (benchmarks/resnet_peak.py).

    It is contiguous on a CPU for a network with a 1x1 convolution of stride above 1 and fewer than 8 input channels. On
    processors with AVX2 only, torch 2.15 computes a wrong weight gradient of that convolution in channels-last, or ends
    the process.
    """
    reached = torch.device(device).type == "cpu" and any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < FEWEST_CHANNELS
        for module in model.modules()
    )
    return torch.contiguous_format if reached else torch.channels_last


def facts() -> dict[str, Any]:
    """Return what a job's record says of the processor: its name, its widest instructions, and whether it computes
    bfloat16 itself.
    """
    told = Path("/proc/cpuinfo")  # Linux; elsewhere the kind must do
    named = re.search(r"^model name\s*: (.+)$", told.read_text(), re.MULTILINE) if told.is_file() else None
    name = named[1] if named else platform.processor() or platform.machine()
    return {
        "name": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16("cpu"),
    }
