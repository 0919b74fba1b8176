"""How a run shows itself: jobs done of all, what runs now, and failures in full (`snakemake --logger palimpsest`).

On a terminal a few lines are redrawn in place. On a pipe or in CI there is one line a minute instead. In both, whatever
is a warning or worse is printed in full, with the log of the failed job where `--show-failed-logs` asks for it, and the
last line counts the jobs. Everything that Snakemake prints without this plugin is in the file under .snakemake/log.
Dry runs, `--verbose`, `--debug-dag` and `--printshellcmds` print what they print without it, because Snakemake's own
output is then left to Snakemake.

Snakemake finds a logger plugin by its name among the packages on the path it starts with, so `src` must be on
PYTHONPATH; `make` sees to that. On a cluster each job has a Snakemake of its own, which uses no logger plugin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

LINE_EVERY = 60  # seconds, where there is no terminal
SHOWN = 8  # running jobs that the display names; a cluster may have a hundred

# Of what is said while jobs run, without being a warning, this is all that the count does not say better.
KEPT = "Complete log"


class LogHandler(LogHandlerBase):
    """Snakemake's log as a count of jobs; Snakemake calls `emit` in one thread of its own.

    `common_settings` are Snakemake's settings of its output. There are no settings of the plugin.
    """

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.silent = settings.dryrun or settings.verbose or settings.debug_dag or settings.printshellcmds
        self.console = Console(stderr=True, no_color=settings.nocolor or None)
        self.started = time.monotonic()
        self.done = 0
        self.total = 0  # known when the graph of jobs is
        self.running: dict[int, tuple[str, float]] = {}  # by the job's number: its name and when it started
        self.failed: set[int] = set()
        self.live: Live | None = None
        self.closing = threading.Event()

    @property
    def writes_to_stream(self) -> bool:
        """Whether Snakemake leaves out its own output."""
        return not self.silent

    @property
    def writes_to_file(self) -> bool:
        """No; Snakemake's own file is kept."""
        return False

    @property
    def has_filter(self) -> bool:
        """No; Snakemake's filter, which obeys `--quiet`, is used."""
        return False

    @property
    def has_formatter(self) -> bool:
        """No; failures are printed in Snakemake's own form."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Count what a record says of jobs, and print it where the count does not say it."""
        if self.silent:
            return
        try:
            event = getattr(record, "event", None)
            self._count(event, record.__dict__)
            text = self.format(record)
            before_jobs = event is None and not self.total  # "Building DAG of jobs...", "Nothing to be done"
            if record.levelno >= logging.WARNING or before_jobs or text.startswith(KEPT):
                self._print(text, "red" if record.levelno >= logging.ERROR else "")
        except Exception:
            self.handleError(record)

    def _count(self, event: LogEvent | None, fields: Mapping[str, Any]) -> None:
        """Keep the numbers; `fields` are those that Snakemake gives each event (its jobs.py and job_scheduler.py)."""
        match event:
            case LogEvent.RUN_INFO:
                self.total = fields["stats"]["total"]
                self._begin()
            case LogEvent.PROGRESS:
                self.done, self.total = fields["done"], fields["total"]
            case LogEvent.JOB_INFO:  # also when a failed job is tried again
                values = "/".join(map(str, fields["wildcards"].values()))
                self.running[fields["jobid"]] = f"{fields['rule_name']} {values}".rstrip(), time.monotonic()
                self.failed.discard(fields["jobid"])
            case LogEvent.JOB_FINISHED:
                self.running.pop(fields["job_id"], None)
            case LogEvent.JOB_ERROR:
                self.running.pop(fields["jobid"], None)
                self.failed.add(fields["jobid"])

    def _begin(self) -> None:
        """Start what shows the count from now on."""
        # One job alone needs no count, and may write its result to the same terminal, as `plan` and `so_far` do.
        # Asked of the stream, not of rich: FORCE_COLOR, which CI services set, makes rich call a pipe a terminal.
        if self.total > 1 and self.console.file.isatty() and not self.console.is_dumb_terminal:
            self.live = Live(
                get_renderable=self._display, console=self.console, transient=True, refresh_per_second=2,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self.live.start()
        else:
            threading.Thread(target=self._tell_time, daemon=True).start()

    def _tell_time(self) -> None:
        """Print a line a minute until the end."""
        while not self.closing.wait(LINE_EVERY):
            first, *jobs = self._state()
            self._print(f"{first}; now: {', '.join(jobs)}" if jobs else first)

    def _display(self) -> Group:
        """Return what a terminal shows."""
        count, *jobs = self._state()
        lines = Text(count, "bold"), *(Text(f"  {job}") for job in jobs)
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def _state(self) -> Iterator[str]:
        """Yield the count, then each of the first few running jobs with its time."""
        yield self._counted()
        running = list(self.running.values())  # a copy: the display is drawn by a thread of its own
        for name, since in running[:SHOWN]:
            yield f"{name} ({clock(time.monotonic() - since)})"
        if len(running) > SHOWN:
            yield f"{len(running) - SHOWN} more"

    def _counted(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.done} of {self.total} jobs done{failed}, {clock(time.monotonic() - self.started)}"

    def _print(self, text: str, style: str = "") -> None:
        """Print as it is: no word of a log is markup, and no line is broken."""
        if text not in ("", "None"):  # the second is what Snakemake's queue makes of a record without a message
            self.console.print(Text(text, style), soft_wrap=True)

    def close(self) -> None:
        """End with the count, as the last line."""
        if not self.closing.is_set():
            self.closing.set()
            if self.live:
                self.live.stop()
            if self.total:
                self._print(self._counted())
        super().close()


def clock(seconds: float) -> str:
    """Return minutes and seconds, `4:07`, or with hours, `1:04:07`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
