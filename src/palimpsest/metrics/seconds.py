"""What unlearning and the training before it took, in seconds of wall time, without loading and saving.

They are what the healing paper prints as time (its Tables 1, 2, 3 and 6). `unlearning_seconds` is a run's last step,
all mini-batches of its request together. `training_seconds` is the training of the base model from which the repetition
began, by the training loop or by the unlearner's own `train_base`. The jobs' records have both; of a job that was
interrupted the seconds of all its runs count, up to where the next one went on. Jobs that share a processor slow each
other down, so numbers that are to be held against each other are measured one job at a time. No second run gives them
again, and another machine gives others: each row names the device.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.metrics import Number, Outputs

NEEDS = ("seconds",)
METRICS = {
    "unlearning_seconds": {"unit": "s", "kind": "seconds", "bounds": (0, None), "of": "unlearning"},
    "training_seconds": {"unit": "s", "kind": "seconds", "bounds": (0, None), "of": "training"},
}


def measure(outputs: Outputs) -> Iterator[Number]:
    """Yield what each of the two took, where it is known; no sample stands behind such a number."""
    for what, (seconds, device) in outputs.seconds.items():
        yield Number(f"{what}_seconds", seconds, 0, device=device)
