"""A card of its own for each job, on a machine with several.

Snakemake counts cards but does not say which job has which. So each job takes one by a lock on a file, which the kernel
releases however the process ends; two Snakemakes of one user share a machine's cards too. Where SLURM gave the job
exactly the cards that it requested, nothing is locked. With `jobs_per_gpu: 3` a card has three places for small
networks; a job that wants a card for itself never shares it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.2

log = logging.getLogger("palimpsest")
_held: list[ExitStack] = []  # the leases, until the process ends


class LeaseError(Exception):
    """The job cannot have the cards that it requests; the message says why."""


def lease(count: int, jobs_per_gpu: int = 1) -> list[str]:
    """Take `count` cards, waiting until they are free, and show the process only these; call it before CUDA starts.

    count: 0 hides every card. jobs_per_gpu: how many jobs may hold the same card at once. Returns the cards as
    `CUDA_VISIBLE_DEVICES` names them, none on a machine without cards. A preset `CUDA_VISIBLE_DEVICES` is the pool to
    choose from. Raises `LeaseError` where there are cards but fewer than `count`, or where the driver does not answer.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's order, so that "0" is the same card to both
    cards = visible() if count else []
    if count and not cards:
        log.info("no card is visible here: on the CPU")
    if 0 < len(cards) < count:
        raise LeaseError(f"The job asks for {count} cards and sees {len(cards)} ({', '.join(cards)}); lower gpu.")
    ours_alone = "SLURM_JOB_ID" in os.environ and len(cards) == count and jobs_per_gpu == 1
    if cards and not ours_alone:
        uuids = _machine()  # "0" and its UUID are one card
        names = {card: uuids.get(card, card) for card in cards}
        if not (taken := _take(names, count, jobs_per_gpu)):
            log.info("waiting for a card; all are taken: %s", ", ".join(cards))
        while not taken:
            time.sleep(POLL_SECONDS)
            taken = _take(names, count, jobs_per_gpu)
        cards = taken
    os.environ[VISIBLE] = ",".join(cards)
    return cards


def visible() -> list[str]:
    """Return the cards that this process may use: those preset in `CUDA_VISIBLE_DEVICES`, else all, by their UUIDs."""
    preset = os.environ.get(VISIBLE)
    if preset is not None:
        return [card.strip() for card in preset.split(",") if card.strip()]
    return list(_machine().values())


def _machine() -> dict[str, str]:
    """Return the machine's cards, UUID by index; none where there is no driver. Raises `LeaseError` where it fails."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        return {}
    except (OSError, subprocess.SubprocessError) as error:
        raise LeaseError(
            f"nvidia-smi is here and does not answer ({error}); mend the driver, or set gpu to 0."
        ) from error
    pairs = [line.split(",") for line in said.splitlines() if line.count(",") == 1]
    return {index.strip(): uuid.strip() for index, uuid in pairs}


def _take(names: dict[str, str], count: int, places: int) -> list[str]:
    """Lock `count` cards and return them, or none, so that no two waiting jobs hold half of each other's."""
    folder = _folder()
    taken: dict[str, ExitStack] = {}
    for place in range(places):  # every card's first place before any card's second
        for card, name in names.items():
            if len(taken) == count or card in taken:
                continue
            file = folder / name.replace("/", "_")
            with suppress(BlockingIOError), ExitStack() as locks:
                # A job alone on a card excludes all others; jobs that share it have one place each.
                _lock(locks, file, fcntl.LOCK_EX if places == 1 else fcntl.LOCK_SH)
                if places > 1:
                    _lock(locks, file.with_name(f"{file.name}.{place}"), fcntl.LOCK_EX)
                taken[card] = locks.pop_all()
    with ExitStack() as all_or_none:
        for locks in taken.values():
            all_or_none.push(locks)
        if len(taken) == count:
            _held.append(all_or_none.pop_all())
            return list(taken)
    return []


def _lock(locks: ExitStack, file: Path, kind: int) -> None:
    """Lock a file until `locks` end; raises `BlockingIOError` where another has it."""
    fcntl.flock(locks.enter_context(file.open("w")), kind | fcntl.LOCK_NB)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"palimpsest-gpu-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise LeaseError(f"{folder}, where jobs lock their cards, is another user's; set TMPDIR to a folder of yours.")
    return folder
