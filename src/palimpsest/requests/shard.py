"""Random samples, all of one shard of the base model, so that only that shard's network loses any.

The healing paper times SISA "under the pessimistic assumption that every shard must be updated" (text to its Figure 2).
This is the other end, and ours: an adversary who knows which sample lies in which shard, and nothing else. `samples`
draws a request that is spread over all.
"""

from __future__ import annotations

from typing import Annotated

import torch

from palimpsest.data import Images
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, check
from palimpsest.seeds import stable_seed

NEEDS = ("kept",)
SHARDS = "assignment/shard"  # the tensor that says in which shard each training sample lies, `int64` (N,)


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    shard: Annotated[int, "[0, inf)"] = 0,
    count: Annotated[int, "[1, train)"] = 25,
    keep_classes: bool = False,
) -> Request:
    """`count` training samples of a shard, drawn with the seed, ascending.

    shard: by number. count: 25 is the paper's for one class. keep_classes: whether a class may not lose its last
    sample. Raises `RequestError` where the model keeps no shards or those of a smaller training set, where there is no
    such shard, and where it has too few samples.
    """
    assert at.kept is not None  # NEEDS
    if SHARDS not in at.kept:
        raise RequestError("shard: the model keeps no shards to aim at; it must come from a base training in shards")
    of, total = at.kept[SHARDS].cpu(), len(images.train_labels)
    if len(of) != total:
        raise RequestError(f"shard: the shards are of {len(of)} samples of {total}; such a request must be the first")
    found = (of == shard).nonzero().flatten()
    if not len(found):
        raise RequestError(f"shard: there is no shard {shard}; the model's are 0..{int(of.max())}")
    if not count <= len(found):
        raise RequestError(f"cannot forget {count} of {len(found)} training samples, which are those of shard {shard}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(stable_seed(at.seed, "shard")))
    return check(images, Request(found[order[:count]].sort().values), keep_classes)
