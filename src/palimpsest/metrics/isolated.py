"""What a defense isolated among the training samples, and how much of that a request had changed.

`unlearners.medoid_defense` says how many samples the training set had (`points`), how many of them it dropped as
isolated (`isolated`), how many stand there that were asked for (`asked`), and how many are both (`isolated_asked`). A
defense that finds a request has a high precision and recall; one that drops honest samples has its share and little
more.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

NEEDS = ("told",)
METRICS = {
    "isolated_share": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "training"},
    "isolated_precision": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "isolated"},
    "isolated_recall": {"unit": "%", "kind": "samples", "bounds": (0, 100), "of": "forget"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield the isolated share of all samples; the share of the isolated that the request had changed; and the share of
    those changed that were isolated.

    What is a share of nothing is nan, and so are both where no sample of the request stands in the training set.
    """
    told = outputs.told
    if "isolated" not in told:
        return
    both = told["isolated_asked"] if told["asked"] else float("nan")
    for name, part, whole in (
        ("share", told["isolated"], told["points"]),
        ("precision", both, told["isolated"]),
        ("recall", both, told["asked"]),
    ):
        yield Number(f"isolated_{name}", 100 * part / whole if whole else float("nan"), int(whole))
