"""Unlearners: each file is one method and has one function, `unlearn(model, forget, retain, *, ...) -> Network`.

Keyword-only arguments are the method's hyper-parameters, the paper's values as defaults. Some of them are not for the
configuration, the workflow fills them in for methods that name them: `seed`, `recipe` (the base model's),
`checkpoint` (where a long training may resume), `initial` (the network that training began with) and `replacement`
(what the forget set shall become instead of being removed, one image for each of its images). The model handed in is
never changed. An empty forget set gives the original weights back: nothing was asked to be forgotten.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from palimpsest.data import Images
from palimpsest.forget import ForgetError


class Samples(NamedTuple):
    """Labelled images: `uint8` (N, C, H, W) and `int64` (N,), on one device, in data-set order."""

    images: torch.Tensor
    labels: torch.Tensor


def split(images: Images, forget_file: Path | str) -> tuple[Samples, Samples]:
    """The forget set that a file of rule `forget` names, and the rest, from the training images; on their device.

    Raises `ForgetError` where the file was drawn from other data.
    """
    content = json.loads(Path(forget_file).read_text())
    chosen = torch.zeros(len(images.train_labels), dtype=torch.bool, device=images.train_labels.device)
    indices = content["indices"]
    if indices and indices[-1] >= len(chosen):
        raise ForgetError(f"{forget_file} names image {indices[-1]} of {len(chosen)}; delete it and run again")
    chosen[torch.tensor(indices, dtype=torch.int64, device=chosen.device)] = True
    forget = Samples(images.train_images[chosen], images.train_labels[chosen])
    retain = Samples(images.train_images[~chosen], images.train_labels[~chosen])
    return forget, retain
