"""What every job does around its one function: log, device, seeds, atomic outputs, record, and one clear sentence on
error.

    with job(globals().get("snakemake")) as run:
        images = data.read(run.input.images)
        run.keep_models(lambda number: fit(...))

An output is written under a temporary name and renamed when it is whole. An error that a user can correct ends the job
with one sentence in its log; a programming error ends it with a traceback. A script can be run by itself for one
result, with its log in the terminal; KEY=VALUE sets a configuration value, as Snakemake's --config does:

    PYTHONPATH=src python workflow/scripts/unlearn.py results/demo/unlearned/…/0-1.safetensors [KEY=VALUE …]
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import shutil
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from palimpsest.pipeline import address, gpu, method, paths, provenance, warm
from palimpsest.pipeline.configuration import ConfigError
from palimpsest.seeds import numbers

if TYPE_CHECKING:
    from palimpsest.models import Diverged, Network
    from palimpsest.train import Checkpoint

    Made = Network | tuple[Network, Mapping[str, Any]]

log = logging.getLogger("palimpsest")
PACKAGE = Path(__file__).parents[1]

# Errors whose message is the one sentence that a user needs, by name: importing their classes would import torch.
CLEAR = {"DataError", "RequestError", "ModelError", "ConfigError", "LeaseError", "Diverged"}


class Files(dict[str, Any]):
    """A job's files by name, as attributes; each is a path or a list. A name that the job does not have is an error."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    @property
    def paths(self) -> list[str]:
        """All of the paths, in one list."""
        return [path for found in self.values() for path in ([found] if isinstance(found, str) else found)]


class Job:
    """One running job.

    stage: its rule. names: its wildcards. asks: its settings, from `pipeline.address`. input, output: its files.
    """

    def __init__(self, snakemake: Any) -> None:
        self.stage: str = snakemake.rule
        self.names: dict[str, str] = dict(snakemake.wildcards.items())
        self.asks = SimpleNamespace(**getattr(snakemake.params, "asks", {}))
        self.key = str(getattr(snakemake.params, "key", ""))
        self.input = Files(
            {
                name: str(found) if isinstance(found, str) else [*map(str, found)]
                for name, found in snakemake.input.items()
            }
        )
        self.output = Files({name: str(path) for name, path in snakemake.output.items()})
        self.config: dict[str, Any] = snakemake.config
        self.facts: dict[str, Any] = {"threads": snakemake.threads}
        self.seconds: dict[int, float] = {}  # of the method alone, by repetition
        self._checkpoint: Checkpoint | None = None

    @property
    def results(self) -> Path:
        """The folder of the scale's results."""
        return Path(f"results/{self.config['scale']}")

    @property
    def device(self) -> str:
        """`cuda` where the job sees a card, else `cpu`."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def numbers(self) -> list[int]:
        """The repetitions of its block."""
        return numbers(self.names["block"])

    def seed(self, number: int) -> int:
        """The seed of one repetition."""
        seed = address.seed_of(self.stage, self.names, number)
        self.facts.setdefault("seeds", {})[str(number)] = seed
        return seed

    def base(self, number: int) -> int:
        """The number of the base model from which one repetition begins."""
        return int(self.asks.bases[self.numbers.index(number)])

    def seed_of_base(self, number: int) -> int:
        """The seed of one repetition's base model."""
        return address.seed_of("train", {name: self.names[name] for name in ("dataset", "model")}, number)

    @property
    def task(self) -> ModuleType:
        """The task of the network: a file of tasks/."""
        return import_module(f"palimpsest.tasks.{self.asks.task}")

    def method(self, folder: str, name: str = "") -> ModuleType:
        """Return the file of a method, by default of the one that the job runs."""
        return import_module(f"palimpsest.{method.module(folder, name or self.asks.method)}")

    @cached_property
    def _resumes(self) -> str:
        """What a kept file must match to be resumed from: the job's key and the inputs as they lie on disk."""
        return str([self.key, *(provenance.digest(path) for path in self.input.paths)])

    @property
    def kept_for_resuming(self) -> Path:
        """The folder from which an interrupted job resumes; it is removed when the job ends."""
        first = Path(next(iter(self.output.values())))
        return first.with_name(f".{first.stem}.resume")

    def checkpoint(self, number: int, part: int = 0) -> Checkpoint:
        """Return where the training of a repetition may resume; `part` numbers trainings that follow each other."""
        from palimpsest.train import Checkpoint

        seconds = float(os.environ.get("PALIMPSEST_CHECKPOINT_SECONDS", "30"))
        path = self.kept_for_resuming / f"{number}.{part}"
        self._checkpoint = Checkpoint(path, f"{self._resumes} {part}", seconds=seconds)
        return self._checkpoint

    @contextmanager
    def timed(self, number: int) -> Iterator[None]:
        """Add the seconds of the block, without loading and saving, to those of a repetition (`method_seconds`).

        What an interrupted run had taken, up to where the block's checkpoint went on from it, is added too.
        """
        started = time.perf_counter()
        yield
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.synchronize()
        earlier = sum(self._checkpoint.earlier) if self._checkpoint else 0.0
        taken = time.perf_counter() - started + earlier
        self.seconds[number], self._checkpoint = self.seconds.get(number, 0.0) + taken, None

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """Yield a temporary path, which becomes `path` when the block ends well and vanishes when it does not."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{final.name}.*.tmp"):  # left by a run that was killed
            left.unlink(missing_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except Exception as error:
            if _is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def write_text(self, path: str, text: str | bytes) -> None:
        """Write a text, or bytes."""
        with self.writing(path) as temporary:
            temporary.write_bytes(text.encode() if isinstance(text, str) else text)

    def write_json(self, path: str, *lines: Any) -> None:
        """Write JSON, one value on each line."""
        self.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def keep_tensors(self, path: str, make: Callable[[int], Mapping[str, Any]], **about: Any) -> None:
        """Write the tensors that `make` returns for each repetition, or why it diverged; `about` holds for all."""
        from palimpsest import models, numbered

        made: dict[int, Mapping[str, Any]] = {}
        told = {number: dict(about) for number in self.numbers}
        for number in self.numbers:
            try:
                made[number] = make(number)
            except models.Diverged as reason:
                made[number], told[number]["diverged"] = {}, str(reason)
        with self.writing(path) as temporary:
            numbered.save(made, temporary, told)

    def read_tensors(self, path: str, number: int) -> dict[str, Any]:
        """Return the tensors of one repetition, on the job's device."""
        from palimpsest import numbered

        return numbered.read(path, number, self.device)

    def keep_models(self, make: Callable[[int], Made], about: Callable[[int], Mapping[str, str]]) -> None:
        """Write the network that `make` returns for each repetition, and the tensors that a further step needs, if any.

        about: further entries of a network's header. A diverged training is no error. Each finished repetition is kept
        beside the output at once, so that a killed job loses one at most.
        """
        from palimpsest import models, numbered

        made: dict[int, Network | models.Diverged] = {}
        left: dict[int, dict[str, Any]] = {}
        for number in self.numbers:
            log.info("repetition %d of %s", number, ", ".join(map(str, self.numbers)))
            part = self.kept_for_resuming / f"{number}.whole"
            made[number], left[number] = self._finished(part, number) or self._made(make, number)
            if not isinstance(made[number], models.Diverged) and len(self.numbers) > 1:
                with self.writing(f"{part}.kept") as temporary:
                    numbered.save({number: left[number]}, temporary, {})
                with self.writing(str(part)) as temporary:
                    took = {"seconds": str(self.seconds[number])} if number in self.seconds else {}
                    models.save({number: made[number]}, temporary, {number: {"resumes": self._resumes, **took}})
        with self.writing(self.output.kept) as temporary:
            numbered.save(left, temporary, {})
        with self.writing(self.output.model) as temporary:
            models.save(made, temporary, {number: about(number) for number in self.numbers})

    def _made(self, make: Callable[[int], Made], number: int) -> tuple[Network | Diverged, dict[str, Any]]:
        from palimpsest import models

        try:
            found = make(number)
        except models.Diverged as reason:
            log.warning("diverged: %s", reason)
            self.facts["status"] = f"diverged: {reason}"
            return reason, {}
        network, tensors = found if isinstance(found, tuple) else (found, {})
        return network, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def _finished(self, part: Path, number: int) -> tuple[Network, dict[str, Any]] | None:
        """Return what an interrupted run of this very job finished; None where there is nothing that fits."""
        from safetensors import SafetensorError

        from palimpsest import models

        try:
            if not part.is_file() or (about := models.metadata(part, number)).get("resumes") != self._resumes:
                return None
            tensors = {name: tensor.cpu() for name, tensor in self.read_tensors(f"{part}.kept", number).items()}
            whole = models.load(part, number), tensors
            if "seconds" in about:
                self.seconds[number] = float(about["seconds"])
            return whole
        except (models.ModelError, SafetensorError, FileNotFoundError) as error:
            log.warning("ignoring %s: not readable (%s)", part, error)
            return None


def nearest_to_the_mean(values: Mapping[int, float | None]) -> int:
    """Return the repetition whose value lies nearest the mean of all that did not diverge (None).

    Where every repetition diverged it is the first, from which whatever follows diverges too.
    """
    found = {number: value for number, value in values.items() if value is not None}
    mean = statistics.fmean(found.values()) if found else 0
    return min(found or values, key=lambda number: (abs(found.get(number, 0) - mean), number))


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run the block as a rule's job, or as the job of the target on the command line, and write its record."""
    snakemake = snakemake or alone(sys.argv[1:])
    to = {"filename": snakemake.log[0], "filemode": "w"} if snakemake.log else {"stream": sys.stderr}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True, **to)
    # Small networks use few threads a job, so that jobs and not threads fill the cores; set before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "torch" in sys.modules:  # in a warm start torch was imported before the number of threads was known
        sys.modules["torch"].set_num_threads(snakemake.threads)
    # torch warns of itself: its forward mode is written with what it deprecates.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    logging.raiseExceptions = False  # a log that cannot be written ends no job
    run = Job(snakemake)
    run.facts["startup_seconds"] = round(time.time() - warm.born(), 2)
    try:
        gpu.lease(int(snakemake.resources.get("gpu", 0)), snakemake.config["jobs_per_gpu"])
        started = time.perf_counter()
        yield run
        if "record" in run.output:
            run.facts |= {"rule": run.stage, "cell": run.names, "params": {**vars(run.asks), "key": run.key}}
            if run.seconds:  # of a repetition that diverged there are none
                run.facts["method_seconds"] = [run.seconds.get(number) for number in run.numbers]
            outputs = [path for name, path in run.output.items() if name != "record"]
            usage = _usage(time.perf_counter() - started)
            run.write_text(run.output.record, provenance.record(run.input.paths, outputs, **run.facts, **usage))
            shutil.rmtree(run.kept_for_resuming, ignore_errors=True)
    except (Exception, ConfigError) as error:  # ConfigError is an exit
        log.error("%s", _sentence(error))
        if _is_full(error):  # perhaps the log itself could not be written
            sys.stderr.write(f"{_sentence(error)}\n")
        sys.exit(1)


def alone(arguments: Sequence[str]) -> SimpleNamespace:
    """Return what Snakemake would pass to the running script for the one target among its arguments."""
    from palimpsest.pipeline import cells, configuration

    stage = Path(sys.argv[0]).stem
    if stage not in paths.OUTPUTS:
        raise ConfigError(
            f"{stage}.py makes no single result, so it does not run by itself: `snakemake {stage}` runs it."
        )
    targets = [word for word in arguments if "=" not in word]
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    scale = given.pop("scale", targets[0].split("/")[1] if len(targets) == 1 and targets[0].count("/") > 1 else "demo")
    results = f"results/{scale}"
    shape = next(iter(paths.outputs_of(results, stage).values()))
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(shape))
    found = re.fullmatch(pattern, targets[0]) if len(targets) == 1 else None
    if not found:
        raise ConfigError(
            f"{stage}.py makes one {shape}; name it, and KEY=VALUE for what the configuration shall have else."
        )
    import yaml

    config = configuration.load(scale=scale, **{key: yaml.safe_load(value) for key, value in given.items()})
    at = address.Addresses(cells.Plan(config))(stage, **found.groupdict())
    return SimpleNamespace(
        rule=stage,
        wildcards=at.names,
        params=SimpleNamespace(asks=at.asks, key=at.key),
        input=at.inputs,
        output=at.outputs,
        config=config,
        threads=config["threads"],
        resources={"gpu": config["gpu"]},
        log=[],
    )


def _usage(seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts: dict[str, Any] = {"seconds": round(seconds, 2), "peak_memory_mb": round(peak), "device": "cpu"}
    torch = sys.modules.get("torch")
    if torch is not None:
        from palimpsest import processor

        facts["processor"] = processor.facts()
    if torch is not None and torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
        facts["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        # PyTorch's defaults differ: convolutions use it, matrix products do not.
        facts["tf32"] = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix_products": torch.backends.cuda.matmul.allow_tf32,
        }
    return facts


def _is_full(error: BaseException) -> bool:
    # safetensors raises an error of its own, which says so only in its text.
    return any(
        getattr(error, "errno", None) == full or f"(os error {full})" in str(error)
        for full in (errno.ENOSPC, errno.EDQUOT)
    )


def _sentence(error: BaseException) -> str:
    if _is_full(error):
        place = getattr(error, "filename", None) or "the file that a training resumes from"
        return f"No space is left on the disk for {place}: free some and run again; nothing is lost."
    if type(error).__name__ in CLEAR or isinstance(error, FileNotFoundError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"The card's memory is too small for this job: lower batch_size in the scale file. ({error})"
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, ValueError) and Path(last).is_relative_to(PACKAGE):  # from a method
        return str(error)
    return traceback.format_exc()
