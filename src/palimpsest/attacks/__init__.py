"""Attacks on unlearned models: each file is one method and has one function, `attack(...)`."""

from __future__ import annotations

from typing import Literal

import torch

from palimpsest.data import Images
from palimpsest.unlearners import Samples


def aimed_at(on: Literal["forget", "unseen"], images: Images, forget: Samples, retain: Samples, seed: int) -> Samples:
    """The images an attack is tried on.

    `forget`: all of them. `unseen`: a control, as many test images as there are forget images (or all there are), from
    the forgotten classes where whole classes were forgotten; no model was ever trained on them.
    """
    if on == "forget":
        return forget
    gone = ~torch.isin(images.test_labels, retain.labels.unique())
    pool = (gone if bool(gone.any()) else torch.ones_like(gone)).nonzero().flatten()
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[: len(forget.labels)]
    chosen = pool[order.to(pool.device)].sort().values
    return Samples(images.test_images[chosen], images.test_labels[chosen])
