"""Samples of some of SISA's shards, changed so that retraining on them takes a test image for another class.

The malicious-requests paper attacks SISA too (its Section 5.2, Figure 2) and does not say how the attack acts through
retraining, which has no gradient that could be followed. We lower, on each attacked shard's network theta_k,

    1 - cos(sum dl(x - delta, y; theta_k), dl(x_s, wanted; theta_k))

as Geiping et al. do (Witches' Brew, ICLR 2021): where the requested samples' gradient points like that of the target
x_s under the wanted class, training on them moves the target there. The paper's defense rests on the same thought (its
Section 4). Whether an attempt succeeds is decided by real retraining.

The attacked shards, their samples and the start of delta follow from the repetition alone; 0 steps are RandUn. The
networks are in evaluation mode. Values: 60 steps at rate 200, a tenth of it every 20, within 8/255 (Section 5.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import Annotated, Literal

import torch
from torch.nn import functional as F

from palimpsest.curvature import gradient
from palimpsest.data import Images, Samples, pixels
from palimpsest.models import Network
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError
from palimpsest.requests.crafted import Asked, aimed, lowered, through_sum
from palimpsest.seeds import stable_seed

NEEDS = ("model", "kept")
TASKS = ("classification",)


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    share: Annotated[float, "(0, 1]"] = 0.04,
    shards: Annotated[int, "[1, inf)"] = 3,
    from_class: Annotated[int, "[0, classes)"] | None = None,
    wanted: Annotated[int, "[0, classes)"] | None = None,
    targets: Annotated[int, "[1, inf)"] = 5,
    epsilon: Annotated[str, "(0, inf)"] = "8/255",
    values: Literal["float", "8-bit"] = "float",
    steps: Annotated[int, "[0, inf)"] = 60,
    rate: Annotated[float, "(0, inf)"] = 200.0,
    decay_every: Annotated[int, "[1, inf)"] = 20,
    direction: Literal["raw", "sign"] = "raw",
    keeps: Literal["best", "last"] = "best",
    batch_size: Annotated[int, "[1, inf)"] = 512,
) -> Request:
    """The samples that shall be changed, shard by shard, what shall stand in their places, and the aim.

    share: of each attacked shard, rounded to whole samples, 1 at least. shards: how many are attacked. The others are
    those of `crafted`. The trace is the mean over the attacked shards. A network that is no ensemble is one shard.
    Raises `RequestError` where there are fewer shards, where nothing says what they hold, and where the aim is refused;
    `Diverged` where a number is not finite.
    """
    assert at.model is not None and at.kept is not None  # NEEDS
    members = getattr(at.model.net, "members", [at.model.net])
    if len(members) > 1 and "assignment/shard" not in at.kept:
        raise RequestError("matched: nothing says which samples the networks of the ensemble were trained on")
    if shards > len(members):
        raise RequestError(f"matched: {shards} shards shall be attacked, and there are {len(members)}")
    asked = SimpleNamespace(
        from_class=from_class, wanted=wanted, targets=targets, goal="targeted", epsilon=epsilon, values=values,
        steps=steps, rate=rate, decay_every=decay_every, direction=direction, keeps=keeps, beta=0.0,
    )  # fmt: skip
    aim, own = aimed(images, at.repetition, asked)
    generator = torch.Generator().manual_seed(stable_seed("matched", at.repetition))
    target = pixels(images.splits["test"].images[aim.indices], at.model.mean.dtype).to(at.model.mean.device)
    place = at.kept["assignment/shard"].cpu() if len(members) > 1 else torch.zeros(len(images.train_labels))
    made: list[Request] = []
    for number in sorted(torch.randperm(len(members), generator=generator)[:shards].tolist()):
        pool = (place == number).nonzero().flatten()
        drawn = torch.randperm(len(pool), generator=generator)[: max(1, round(share * len(pool)))]
        indices = pool[drawn]
        clean, labels = (part[indices.to(part.device)].to(target.device) for part in images.splits["train"])
        forget = Samples(pixels(clean, target.dtype), labels)
        noise = 2 * torch.rand(clean.shape, generator=generator) - 1
        one = Asked(indices, forget, noise, target, own, aim)
        shard = deepcopy(at.model).eval()
        shard.net = deepcopy(members[number]).eval()
        made += lowered(_Matched(shard, one, batch_size), [one], images, asked)
    return _together(made)


class _Matched:
    """One minus the cosine of two gradients, and its gradient by the samples of the first."""

    def __init__(self, shard: Network, one: Asked, batch_size: int) -> None:
        self.shard, self.labels, self.batch_size = shard, one.forget.labels, batch_size
        wished = gradient(shard, Samples(one.target, one.aim.labels.to(one.target.device)))
        self.wished = F.normalize(wished, dim=0)

    def __call__(self, put: torch.Tensor, last: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return it (1,) with the samples `put` (1, n, ...), and its gradient by them; None if `last`."""

        def apart(brought: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            length = brought.norm().clamp(min=torch.finfo(brought.dtype).tiny)
            cosine = brought @ self.wished / length
            return (1 - cosine)[None], (cosine * brought / length - self.wished) / length

        found, slope = through_sum(self.shard, Samples(put[0], self.labels), apart, self.batch_size, last)
        return found, None if slope is None else slope[None]


def _together(parts: Sequence[Request]) -> Request:
    """Return one request of those to several shards."""
    replacements = [part.replacement for part in parts if part.replacement is not None]
    traces = [part.trace for part in parts if part.trace is not None]
    put = Samples(*(torch.cat(tensors) for tensors in zip(*replacements, strict=True)))
    return Request(torch.cat([part.indices for part in parts]), put, parts[0].aim, torch.stack(traces).mean(0))
