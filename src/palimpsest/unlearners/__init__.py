"""Unlearners: each file is one method and has one function, `unlearn(model, forget, retain, *, ...) -> Network`.

Keyword-only arguments are the method's hyper-parameters, the paper's values as defaults. Some of them are not for the
configuration, the workflow fills them in for methods that name them:

    seed, recipe    a number, and how the base model was trained
    checkpoint      where a long training may resume
    initial         the network that training began with
    indices         where the forget set's images stand in the training set, `int64`, ascending
    replacement     what the forget set shall become instead of being removed, one image for each of its images
    penalty         what `adversarial` adds to the loss of methods that train on the forget set
    kept            tensors that the method's own base training left

The model handed in is never changed. An empty forget set gives the original weights back: nothing was asked to be
forgotten. A method whose base model must be trained in a way of its own has a second function,

    train_base(model, data, *, seed, recipe, ...) -> (network, kept)

which takes a network with fresh weights and all training samples.
"""

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
