"""What every job does around its one function: log, device, seeds, atomic outputs, the record, one clear sentence.

    with job(snakemake) as run:
        images = data.read(run.input.data)
        run.keep_models(run.output.model, lambda number: fit(...), {0: {"seed": "…"}})

An output is written under a temporary name and renamed when it is whole. An error that a user can mend ends the job
with one sentence in its log; an error of ours with its traceback.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.pipeline import gpu, provenance, warm
from palimpsest.pipeline.configuration import ConfigError
from palimpsest.seeds import stable_seed

if TYPE_CHECKING:
    from palimpsest.models import Diverged, Network
    from palimpsest.train import Checkpoint

    Made = Network | tuple[Network, Mapping[str, Any]]

log = logging.getLogger("palimpsest")
PACKAGE = Path(__file__).parents[1]

# Errors whose message is the one sentence that a user needs, by name: importing their classes would import torch.
CLEAR = {"DataError", "ForgetError", "ModelError", "ConfigError", "LeaseError", "Diverged"}


class Run:
    """One running job: Snakemake's fields, and what the scripts need besides them."""

    def __init__(self, snakemake: Any) -> None:
        self.input = snakemake.input
        self.output = snakemake.output
        self.params = snakemake.params
        self.wildcards: dict[str, str] = dict(snakemake.wildcards.items())
        self.rule: str = snakemake.rule
        self.threads: int = snakemake.threads
        self.facts: dict[str, Any] = {"threads": snakemake.threads}

    @property
    def device(self) -> str:
        """`cuda` where the job sees a card, else `cpu`."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def seed(self, repetition: int | str) -> int:
        """The seed of this job's cell and one repetition."""
        cell = {name: value for name, value in self.wildcards.items() if name != "seed"}
        seed = stable_seed(self.rule, cell, int(repetition))
        self.facts.setdefault("seeds", {})[str(repetition)] = seed
        return seed

    @cached_property
    def _key(self) -> str:
        """What anything kept for resuming must match: the job's parameters and inputs."""
        inputs = {provenance.relative(path): provenance.digest(path) for path in self.input}
        return str(stable_seed(self.rule, self.wildcards, dict(self.params.items()), inputs))

    def checkpoint(self, beside: str, number: int) -> Checkpoint:
        """Where the training of repetition `number` of output `beside` may resume."""
        from palimpsest.train import Checkpoint

        path = Path(beside).with_suffix(f".{number}.resume")
        return Checkpoint(path, self._key, seconds=float(os.environ.get("PALIMPSEST_CHECKPOINT_SECONDS", "30")))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Seconds of the block, without loading and saving, go into the record as `method_seconds`."""
        started = time.perf_counter()
        yield
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.facts.setdefault("method_seconds", []).append(round(time.perf_counter() - started, 3))

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{final.name}.*.tmp"):  # by a run that was killed
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

    def write_json(self, path: str, content: Any) -> None:
        """Write `content` as JSON."""
        with self.writing(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n")

    def write_rows(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write measurements, one JSON object a line."""
        with self.writing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_tensors(self, path: str, tensors: Mapping[str, Any], **metadata: str) -> None:
        """Write tensors as safetensors."""
        from palimpsest.tensors import save

        with self.writing(path) as temporary:
            save(tensors, temporary, metadata)

    def read_tensors(self, path: str, number: int = 0) -> dict[str, Any]:
        """Tensors that `write_tensors` or, by number, `keep_models` wrote, on the job's device."""
        from safetensors import safe_open

        with safe_open(path, framework="pt", device=self.device) as file:
            prefix = f"{number}/" if "several" in (file.metadata() or {}) else ""
            names = [name for name in file.keys() if name.startswith(prefix)]
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}

    def keep_models(
        self, path: str, make: Callable[[int], Made], metadata: Mapping[int, Mapping[str, str]], kept: str = ""
    ) -> None:
        """Write the network that `make` returns for each number of `metadata`; with `kept`, the tensors besides it too.

        A diverged training is kept as such and is no error. Of several, each finished one waits beside the output, so
        that a killed job loses one at most.
        """
        from palimpsest import models

        several = len(metadata) > 1
        made: dict[int, Network | models.Diverged] = {}
        left: dict[str, Any] = {}
        for number in metadata:
            part = Path(path).with_suffix(f".{number}.resume.whole")
            log.info("repetition %d of %s", number, ", ".join(map(str, metadata)))
            one, tensors = self._finished(part) or self._made(make, number)
            if several and not isinstance(one, models.Diverged):
                self.write_tensors(f"{part}.kept", tensors)
                with self.writing(str(part)) as temporary:
                    models.save(one, temporary, key=self._key)
            made[number] = one
            left |= {f"{number}/{name}" if several else name: tensor for name, tensor in tensors.items()}
        if kept:
            self.write_tensors(kept, left, **({"several": "yes"} if several else {}))
        with self.writing(path) as temporary:
            if several:
                models.save_several(made, temporary, metadata)
            elif isinstance(one, models.Diverged):
                models.save_diverged(temporary, str(one))
            else:
                models.save(one, temporary, **metadata[number])
        for number in metadata:
            resume = Path(path).with_suffix(f".{number}.resume")
            for file in resume.parent.glob(f"{resume.name}*"):  # a method may keep more than one beside it
                file.unlink(missing_ok=True)

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

    def _finished(self, part: Path) -> tuple[Network, dict[str, Any]] | None:
        """What an interrupted run of this very job left as finished."""
        from safetensors import SafetensorError

        from palimpsest import models

        try:
            if not part.is_file() or models.metadata(part).get("key") != self._key:
                return None
            tensors = {name: tensor.cpu() for name, tensor in self.read_tensors(f"{part}.kept").items()}
            return models.load(part), tensors
        except (models.ModelError, SafetensorError, FileNotFoundError) as error:
            log.warning("ignoring %s: not readable (%s)", part, error)
            return None


@contextmanager
def job(snakemake: Any) -> Iterator[Run]:
    """Run the block as the job of a rule; writes `output.record` at the end, where the rule has one."""
    logging.basicConfig(
        filename=snakemake.log[0], filemode="w", level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    # Small networks use few threads a job, so that jobs and not threads fill the cores; set before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "torch" in sys.modules:  # a warm start: imported before anybody knew how many threads
        sys.modules["torch"].set_num_threads(snakemake.threads)
    logging.raiseExceptions = False  # a log that cannot be written ends no job
    run = Run(snakemake)
    run.facts["startup_seconds"] = round(time.time() - warm.born(), 2)
    try:
        gpu.lease(int(snakemake.resources.get("gpu", 0)), snakemake.config["jobs_per_gpu"])
        started = time.perf_counter()
        yield run
        if "record" in snakemake.output.keys():
            outputs = [path for path in snakemake.output if path != snakemake.output.record]
            facts = {**run.facts, **_usage(time.perf_counter() - started)}
            content = provenance.record(
                rule=run.rule,
                wildcards=run.wildcards,
                params=dict(run.params.items()),
                inputs=[path for path in run.input if Path(path).is_file()],
                outputs=outputs,
                facts=facts,
            )
            with run.writing(snakemake.output.record) as temporary:
                provenance.write(temporary, content)
    except (Exception, ConfigError) as error:  # ConfigError is an exit
        log.error("%s", _sentence(error))
        if _is_full(error):  # of the log itself, perhaps
            sys.stderr.write(f"{_sentence(error)}\n")
        sys.exit(1)


def _usage(seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts: dict[str, Any] = {"seconds": round(seconds, 2), "peak_memory_mb": round(peak), "device": "cpu"}
    torch = sys.modules.get("torch")
    if torch is not None:
        from palimpsest import processor

        facts["processor"] = processor.facts("cuda" if torch.cuda.is_available() else "cpu")
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
    if isinstance(error, ValueError) and Path(last).is_relative_to(PACKAGE):  # raised by a method, in its own words
        return str(error)
    return traceback.format_exc()
