"""How well the networks of an ensemble do one by one, each on samples that it has not seen.

`unlearners.sisa` says it of its own step: of the accuracies of its networks, each on the samples of the other shards,
the mean and the least. A vote that does better after a request than before may owe that to one shard that the request
mended, or to all of them; the accuracy of the vote alone does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

NEEDS = ("told",)
METRICS = {
    "shard_accuracy": {"unit": "%", "kind": "set", "bounds": (0, 100), "of": "training"},
    "shard_accuracy_least": {"unit": "%", "kind": "set", "bounds": (0, 100), "of": "training"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield both where the last step said them."""
    for name in METRICS:
        if name in outputs.told:
            yield Number(name, outputs.told[name], 1)
