"""On the same cores, our LeNet jobs train on MNIST at least twice as fast as a torchvision DataLoader loop.

Ours: `palimpsest.train.fit` with the LeNet recipe (Adam 1e-3, batch 64); the data set is one uint8 tensor on the
device, and a small network gets one thread, so that two jobs run side by side. The other side: the loop of most
tutorials, torchvision's MNIST with ToTensor and Normalize behind a DataLoader, same network, optimiser and batch, one
job with all the threads, with 0 or 2 workers, whichever a short trial finds faster. Side by side, a round's speed is
the images of all jobs over the time from the common start to the last end.

Also: two one-thread jobs of ours against one job of ours with two threads, which is why LeNet asks for one thread; and
where the gain comes from: one job against one job, and side by side against side by side.
Without MNIST in --data, random images of the same format are timed instead, and the report says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

import numpy as np
import torch
from bench import Contestant, Finding, alternate, machine, parser, positive, progress, ratio, report
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from palimpsest.data import DataError, Samples, mnist
from palimpsest.models import Spec, channel_statistics, create, lenet
from palimpsest.train import Recipe, fit

BATCH_SIZE = 64
TRIAL_IMAGES = 3200
WARM_UP_IMAGES = 1280  # the first steps choose kernels and start threads
LOADER_WORKERS = (0, 2)

Epoch = Callable[[int, int], None]  # (images, workers) to one epoch over the first images
Trial = dict[int, float]  # images/s by the number of workers


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=5)
    made.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("PALIMPSEST_DATA", "data")),
        help="folder that holds MNIST/raw/ (default: $PALIMPSEST_DATA, else data)",
    )
    made.add_argument(
        "--images", type=positive, default=20_000, help="images in an epoch, the first of MNIST (default: %(default)s)"
    )
    made.add_argument("--jobs", type=positive, default=2, help="cores in the contest (default: %(default)s)")
    return made.parse_args()


def pictures(root: Path, count: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """`uint8` images (N, 1, 28, 28), `int64` labels (N,), and a note where they are not MNIST's."""
    raw = root / "MNIST" / "raw"
    missing = [name for name in mnist.MD5S if not ((raw / name).exists() or (raw / f"{name}.gz").exists())]
    if not missing:  # asked first, because the loader would download what is absent
        images = mnist.load(root)
        return images.train_images[:count], images.train_labels[:count], ""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    return pixels, labels, f"random images instead of MNIST, of which --data lacks {', '.join(missing)}"


def write_idx(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """The four IDX files as torchvision's MNIST looks for them below `folder`; the test split repeats one image."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, pixels, classes in (("train", images, labels), ("t10k", images[:1], labels[:1])):
        for kind, array in (("images-idx3", pixels.squeeze(1)), ("labels-idx1", classes.to(torch.uint8))):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + array.numpy().tobytes())


def our_epoch(folder: Path, number: int) -> Epoch:
    """One epoch of ours; reads the same files that the other side reads."""
    plain = datasets.MNIST(str(folder))
    images, labels = plain.data.unsqueeze(1), plain.targets
    model = create(Spec("lenet", 10, 1), *channel_statistics(images), seed=number)
    recipe = Recipe(epochs=1, batch_size=BATCH_SIZE, lr=1e-3, optimizer="adam", weight_decay=0.0)

    def epoch(count: int, workers: int) -> None:
        fit(model, Samples(images[:count], labels[:count]), recipe, seed=number)

    return epoch


def loader_epoch(folder: Path, number: int) -> Epoch:
    """One epoch of the loop that most public code has."""
    torch.manual_seed(number)
    model = lenet.build(10, 1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    # The constants are MNIST's mean and standard deviation, as PyTorch's own example has them.
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = datasets.MNIST(str(folder), transform=transform)

    def epoch(count: int, workers: int) -> None:
        some = dataset if count >= len(dataset) else Subset(dataset, range(count))
        loader = DataLoader(some, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
        step_all(model, optimizer, loader)

    return epoch


def step_all(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def serve(connection: Connection, side: str, folder: Path, number: int, threads: int) -> None:
    """A job's process: (images, workers) comes in, the moment of the end goes out; ends when the pipe is closed."""
    torch.set_num_threads(threads)
    epoch = (our_epoch if side == "ours" else loader_epoch)(folder, number)
    connection.send("ready")
    while True:
        try:
            count, workers = connection.recv()
        except EOFError:
            return
        epoch(count, workers)
        connection.send(time.monotonic())  # one clock for all processes of a machine


class Jobs:
    """Processes that train side by side, each with its own number of threads; idle ones wait without using a core."""

    def __init__(self, context: SpawnContext, side: str, folder: Path, count: int, threads: int) -> None:
        self.side = side
        self.pipes: list[Connection] = []
        self.processes: list[SpawnProcess] = []
        # Read when a process loads its OpenMP, before torch.set_num_threads can be called.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            for number in range(count):
                here, there = context.Pipe()
                process = context.Process(target=serve, args=(there, side, folder, number, threads))
                process.start()
                there.close()  # so that a process that dies is an EOFError here
                self.pipes.append(here)
                self.processes.append(process)
            for pipe in self.pipes:
                self._answer(pipe)
        except BaseException:  # the interpreter would wait for ever for processes that wait for us
            self.close()
            raise
        finally:
            del os.environ["OMP_NUM_THREADS"]

    def run(self, images: int, workers: int = 0) -> float:
        """Seconds from the common start until the last job has trained on `images` images."""
        started = time.monotonic()
        for pipe in self.pipes:
            with suppress(BrokenPipeError):  # its end is found where its answer is read
                pipe.send((images, workers))
        return max(float(self._answer(pipe)) for pipe in self.pipes) - started

    def _answer(self, pipe: Connection) -> float | str:
        try:
            return pipe.recv()
        except (EOFError, ConnectionError):
            raise SystemExit(f"a process of {self.side} ended early; its error is above") from None

    def close(self) -> None:
        """Let every process end."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()


def contest(chosen: argparse.Namespace, folder: Path, images: int) -> tuple[list[Contestant], list[Finding], Trial]:
    """Run all contestants and compare them."""
    count = chosen.jobs
    # What the caller's shell says would overrule the number of threads that a job gets here.
    os.environ.pop("OMP_NUM_THREADS", None)
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:

        def jobs(side: str, many: int, threads: int) -> Jobs:
            made = Jobs(context, side, folder, many, threads)
            stack.callback(made.close)
            return made

        ours_many, ours_one = jobs("ours", count, 1), jobs("ours", 1, count)
        loader_many, loader_one = jobs("loader", count, 1), jobs("loader", 1, count)
        progress("warming up")
        short = min(images, WARM_UP_IMAGES)
        for group in (ours_many, ours_one, loader_many):
            group.run(short)
        trial = try_workers(loader_one, min(images, TRIAL_IMAGES))
        workers = max(trial, key=lambda number: trial[number])
        loader = f"DataLoader with {workers} workers"

        def contestant(name: str, group: Jobs, run: Callable[[], float]) -> Contestant:
            many = len(group.processes)
            threads = f"{many} x 1" if many > 1 else str(count)
            return Contestant(name, threads, many * images, "images", run)

        ours = contestant("ours, side by side", ours_many, partial(ours_many.run, images))
        plain = contestant(f"{loader}, one job", loader_one, partial(loader_one.run, images, workers))
        alone = contestant("ours, one job", ours_one, partial(ours_one.run, images))
        # Without workers: every core has its job already.
        beside = contestant("DataLoader with 0 workers, side by side", loader_many, partial(loader_many.run, images))
        contestants = [ours, plain, alone, beside]
        alternate(contestants, chosen.rounds)
    findings = [
        ratio(f"LeNet: {count} one-thread jobs of ours / one {count}-thread {loader}", ours, plain),
        ratio(f"LeNet: {count} one-thread jobs of ours / one {count}-thread job of ours", ours, alone),
        ratio(f"LeNet: one {count}-thread job of ours / one {count}-thread {loader}", alone, plain),
        ratio(f"LeNet: {count} one-thread jobs of ours / {count} one-thread DataLoaders with 0 workers", ours, beside),
    ]
    return contestants, findings, trial


def try_workers(loader: Jobs, images: int) -> Trial:
    """How fast the DataLoader is with each number of workers; the better of two tries, after a short one."""
    trial = {}
    for workers in LOADER_WORKERS:
        loader.run(min(images, WARM_UP_IMAGES), workers)
        trial[workers] = images / min(loader.run(images, workers) for _ in range(2))
        progress(f"trial: DataLoader with {workers} workers: {trial[workers]:,.0f} images/s")
    return trial


def main() -> None:
    chosen = options()
    about = machine()
    try:
        images, labels, note = pictures(chosen.data, chosen.images)
    except DataError as error:
        raise SystemExit(str(error)) from error
    notes = [note] if note else []
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as folder:
        write_idx(Path(folder), images, labels)
        contestants, findings, trial = contest(chosen, Path(folder), len(images))
    tried = ", ".join(f"{speed:,.0f} images/s with {workers}" for workers, speed in trial.items())
    notes.append(f"the DataLoader's workers were chosen by a trial: {tried}")
    facts = {"loader_trial_images_per_second": trial}
    report("train_lenet", __doc__ or "", chosen, about, contestants, findings, notes=notes, facts=facts)


if __name__ == "__main__":
    main()
