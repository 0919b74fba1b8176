"""Attacks on unlearned models: each file is one method and has one function, `attack(...)`.

An attack on images takes (model, original, images, labels, *, ...). An attack on labels asks which classes a server
forgot: `attack(server, shape, classes, *, ...)` gets out of the server what there is, and a second function,

    judge(found, *, ...) -> Judgement

decides from that, `found` being the tensors of what `attack` returned. Where the file has `query_of`, the server is
handed over as what that makes of it. The workflow fills in, for those that name them,

    seed, device    a number, and where to compute
    own_samples     labelled images of the attacker's, of every class
    truth           which classes the server forgot, bool (K,), for judgements that are no attack but a bound
    shadows         of other servers whose forgotten classes the attacker knows, `found` and their truth
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from palimpsest.data import Images, Samples


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


class Judgement(NamedTuple):
    """What an attack on labels says of one server.

    decisions: by the name of the screening, bool (K,), True where a class is judged forgotten. values: what a figure
    shows of it, by name: numbers (n,) and the class (n,) that each belongs to.
    """

    decisions: dict[str, torch.Tensor]
    values: dict[str, tuple[torch.Tensor, torch.Tensor]]
