"""A training set in two: what a request asks to forget, and the rest."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from palimpsest.data import Images, Samples
from palimpsest.forget import ForgetError


def split(images: Images, forget_file: Path | str, number: int = 0) -> tuple[Samples, Samples, torch.Tensor]:
    """The forget set that a file of rule `forget` names, the rest, and the set's `indices`; on the images' device.

    number: which repetition's, where the file holds several. Raises `ForgetError` where it was drawn from other data.
    """
    content = json.loads(Path(forget_file).read_text())
    content = content["several"][str(number)] if "several" in content else content
    chosen = torch.zeros(len(images.train_labels), dtype=torch.bool, device=images.train_labels.device)
    indices = content["indices"]
    if indices and indices[-1] >= len(chosen):
        raise ForgetError(f"{forget_file} names image {indices[-1]} of {len(chosen)}; delete it and run again")
    chosen[torch.tensor(indices, dtype=torch.int64, device=chosen.device)] = True
    forget = Samples(images.train_images[chosen], images.train_labels[chosen])
    retain = Samples(images.train_images[~chosen], images.train_labels[~chosen])
    return forget, retain, chosen.nonzero().squeeze(1)
