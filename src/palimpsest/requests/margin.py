"""The samples of which a model is least sure: those with the smallest margin of the true class, worst first.

The healing paper removes the "worst 25 logits" (Table 5) and does not say what that is. We take the smallest

    z_y - max_{j != y} z_j

of the model at hand, with its logits z and the label y; it is below zero where the model errs. So the request is what
an adversary who knows the outputs would choose.
"""

from __future__ import annotations

from typing import Annotated

import torch

from palimpsest.data import Images, pixels
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, _ranked

NEEDS = ("model",)
TASKS = ("classification",)
BATCH = 500  # images at once, as few as any card takes


@checked
def choose(
    images: Images, at: Choice, *, count: Annotated[int, "[1, train)"] = 25, keep_classes: bool = False
) -> Request:
    """The `count` training samples with the smallest margin under `at.model`, worst first, ties in upstream order.

    count: 25 is the paper's. keep_classes: whether a class may not lose its last sample.
    Raises `RequestError` where there are too few, `Diverged` where the model's outputs are not finite.
    """
    assert at.model is not None  # NEEDS
    train, device = images.splits["train"], at.model.mean.device
    every = _ranked.among(images, None, count)
    at.model.eval()
    margins = []
    with torch.inference_mode():
        for some, labels in zip(train.images.split(BATCH), train.labels.split(BATCH), strict=True):
            logits = at.model(pixels(some.to(device))).double()
            true = torch.nn.functional.one_hot(labels.to(device), logits.shape[1]).bool()
            margins.append((logits[true] - logits.masked_fill(true, -torch.inf).amax(1)).cpu())
    return _ranked.first(images, every, -torch.cat(margins), count, keep_classes)
