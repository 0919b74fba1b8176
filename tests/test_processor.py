"""What older processors compute wrongly or slowly is avoided: the layout of tensors, and bfloat16."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from palimpsest import processor

ROOT = Path(__file__).parents[1]
on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="oneDNN's code for processors with AVX2 runs on x86 alone",
)
# The weight gradient of 1x1 convolutions of stride 2 against float64's, in one layout, for so many input channels.
GRADIENTS = """
import sys
import torch
torch.manual_seed(0)
layout, worst = getattr(torch, sys.argv[1]), 0.0
for channels in map(int, sys.argv[2:]):
    for count, side in ((32, 8), (7, 9), (64, 16)):
        weight, images = torch.randn(16, channels, 1, 1), torch.randn(count, channels, side, side)
        found = []
        for dtype, memory in ((torch.float64, torch.contiguous_format), (torch.float32, layout)):
            one = torch.nn.Conv2d(channels, 16, 1, stride=2, bias=False).to(dtype)
            one.weight.data.copy_(weight)
            one.to(memory_format=memory)(images.to(dtype).to(memory_format=memory)).square().sum().backward()
            found.append(one.weight.grad.double())
        worst = max(worst, float((found[1] - found[0]).abs().max() / found[0].abs().max()))
print(worst)
"""
PRECISION = """
import torch
from palimpsest import processor
with processor.autocast("cpu", "bfloat16"):
    print(processor.has_bfloat16("cpu"), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
"""


def older(code: str, *arguments: str, threads: int = 2) -> subprocess.CompletedProcess[str]:
    """`code` in a process whose oneDNN takes this processor for one with AVX2 only."""
    own = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, *arguments]
    try:
        return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:  # one of the ways in which the fault shows
        return subprocess.CompletedProcess(command, -1, "", "it did not end")


@pytest.mark.parametrize(
    ("convolution", "wanted"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(7, 8, 1, stride=(1, 2)), torch.contiguous_format),
        (nn.Conv2d(8, 8, 1, stride=2), torch.channels_last),
        (nn.Conv2d(4, 8, 1), torch.channels_last),
        (nn.Conv2d(4, 8, 3, stride=2), torch.channels_last),
    ],
)
def test_only_a_network_that_the_fault_can_reach_is_trained_contiguous(
    convolution: nn.Module, wanted: torch.memory_format
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), convolution))
    assert processor.layout(network, "cpu") == wanted
    assert processor.layout(network, "cuda") == torch.channels_last, "the fault is of a CPU"


@on_x86
def test_such_a_convolution_has_a_wrong_gradient_in_channels_last_which_is_why_there_is_a_layout() -> None:
    """Where this fails because both are right, torch has mended it and `layout` can go."""
    ended = [older(GRADIENTS, "channels_last", "1", "2", "4", "5", "7", threads=threads) for threads in (1, 2)]
    wrong = [done.returncode != 0 or not float(done.stdout) < 1e-4 for done in ended]
    assert any(wrong), [(done.returncode, done.stdout) for done in ended]


@on_x86
@pytest.mark.parametrize("threads", [1, 2])
def test_in_the_layout_that_is_chosen_gradients_are_right(threads: int) -> None:
    few, many = map(str, (1, 2, 3, 4, 5, 6, 7)), map(str, (8, 9, 12, 16))
    for layout, channels in (("contiguous_format", few), ("channels_last", many)):
        done = older(GRADIENTS, layout, *channels, threads=threads)
        assert done.returncode == 0 and float(done.stdout) < 1e-4, (layout, done)


@on_x86
def test_the_variable_that_makes_a_processor_older_switches_bfloat16_off() -> None:
    done = older(PRECISION)
    assert done.stdout.split() == ["False", "torch.float32"], done.stderr


def test_bfloat16_is_used_where_the_hardware_has_it_and_float32_where_it_was_asked_for() -> None:
    ones = torch.ones(2, 2)
    with processor.autocast("cpu", "bfloat16"):
        assert (ones @ ones).dtype == (torch.bfloat16 if processor.has_bfloat16("cpu") else torch.float32)
    with processor.autocast("cpu", "float32"):
        assert (ones @ ones).dtype == torch.float32
