"""Random samples, replaced by themselves with uniform noise: the control of the malicious-requests paper.

Its `RandUn` replaces x by x + U(-ε, ε), with the ε and the samples of the attack (malicious paper, Section 5.1). What
is outside [0, 1] is cut off, which the paper does not state. A server that takes 8-bit images rounds them; where ε is a
whole number of grey levels, no pixel then moves by more than ε either.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import torch

from palimpsest.data import Images, Samples, pixels
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, samples
from palimpsest.seeds import stable_seed


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, inf)"] | None = None,
    share: Annotated[float, "(0, 1]"] | None = None,
    classes: Sequence[Annotated[int, "[0, inf)"]] | None = None,
    epsilon: Annotated[str, "(0, 1]"] = "8/255",
    values: Literal["float", "8-bit"] = "float",
) -> Request:
    """The samples that `samples` draws with the same seed, each with noise in its place and the label it had.

    count, share, classes: as there. epsilon: of pixels in [0, 1], as a fraction; of features, in their own unit and
    not cut off. values: whether the replacements are `float32` or rounded to `uint8`, which features cannot be.
    Raises `RequestError` where there are too few samples.
    """
    if values == "8-bit" and images.kind == "features":
        raise RequestError("noise: features have no 8-bit values; values takes 'float' here")
    indices = samples.choose(images, at, count=count, share=share, classes=classes).indices
    clean, labels = (part[indices.to(part.device)].cpu() for part in images.splits["train"])
    generator = torch.Generator().manual_seed(stable_seed(at.seed, "noise"))
    noisy = pixels(clean) + float(Fraction(epsilon)) * (2 * torch.rand(clean.shape, generator=generator) - 1)
    if images.kind == "images":
        noisy = noisy.clamp(0, 1)
    return Request(indices, Samples((noisy * 255).round().to(torch.uint8) if values == "8-bit" else noisy, labels))
