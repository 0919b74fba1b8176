"""Plan before spending: the jobs that Snakemake would run, their longest chain, and their time on a number of cards.

The jobs, their order and which are done come from Snakemake itself; their seconds come from `estimate`.
"""

from __future__ import annotations

import heapq
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from palimpsest.pipeline.configuration import ROOT, ConfigError


@dataclass(frozen=True)
class Job:
    """One job of Snakemake's graph.

    cell: its wildcards. asks: its settings. after: the ids of the jobs that it waits for. runs: whether it runs
    anything; a target does not. done: whether Snakemake would leave it as it is. gpus: how many cards it requests.
    """

    id: int
    rule: str
    after: frozenset[int] = frozenset()
    cell: Mapping[str, str] = field(default_factory=dict)
    asks: Mapping[str, Any] = field(default_factory=dict)
    runs: bool = True
    done: bool = False
    threads: int = 1
    gpus: int = 0
    priority: int = 0

    @property
    def device(self) -> str:
        """The kind of device it runs on: `gpu` or `cpu`."""
        return "gpu" if self.gpus else "cpu"


def graph(config: Mapping[str, Any], target: str, max_checksum_file_size: int, project: Path = ROOT) -> list[Job]:
    """Return Snakemake's jobs for `target` under a configuration; those that are done are among them.

    It makes a dry run inside this process, of the Snakefile below `project`, in the current folder.
    max_checksum_file_size: the value of the outer call, in bytes; with another one results with new dates would not
    count as done. Raises `ConfigError` for a target that does not exist.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import MissingRuleException
    from snakemake.settings import types

    with SnakemakeApi(types.OutputSettings(dryrun=True, log_level_override=logging.ERROR)) as api:
        workflow = api.workflow(
            types.ResourceSettings(cores=2**16),  # so many that every rule gets the threads it requests
            types.ConfigSettings(config=config),
            snakefile=project / "Snakefile",
        )
        settings = types.DAGSettings(targets={target}, max_checksum_file_size=max_checksum_file_size)
        try:
            workflow.dag(settings).execute_workflow(
                executor="dryrun",
                execution_settings=types.ExecutionSettings(lock=False),
                scheduling_settings=types.SchedulingSettings(scheduler="greedy"),
            )
        except MissingRuleException as error:
            raise ConfigError(f"plan.target cannot be {target!r}: `snakemake --list` names what it takes.") from error
        # Snakemake prints its graph (--d3dag, --dag) without wildcards and without edges to what is done.
        dag = workflow._workflow.dag
        return [
            Job(
                id=dag.jobid(job),
                rule=job.rule.name,
                after=frozenset(dag.jobid(before) for before in dag.dependencies[job]),
                cell=dict(job.wildcards_dict),
                asks=dict(job.params.get("asks", {})),
                runs=bool(job.output),
                done=not dag.needrun(job),
                threads=job.threads,
                gpus=int(job.resources.get("gpu", 0)),
                priority=job.rule.priority,  # a job knows its own priority only where it is to run
            )
            for job in dag.jobs
        ]


def critical_path(jobs: Sequence[Job], seconds: Mapping[int, float]) -> tuple[float, list[int]]:
    """Return the longest chain of jobs that wait for each other: its seconds, and its ids in order."""
    after = _waiting(jobs)
    ends: dict[int, float] = {}
    last: dict[int, int | None] = {}
    for number in TopologicalSorter(after).static_order():
        before = max(after[number], key=lambda other: (ends[other], other), default=None)
        ends[number] = seconds[number] + (ends[before] if before is not None else 0.0)
        last[number] = before
    at: int | None = max(ends, key=lambda number: (ends[number], number), default=None)
    length, path = (ends[at] if at is not None else 0.0), []
    while at is not None:
        path.append(at)
        at = last[at]
    return length, path[::-1]


def wall(jobs: Sequence[Job], seconds: Mapping[int, float], gpus: int, cores: int) -> float:
    """Return the seconds until the last job ends on `gpus` cards and `cores` cores.

    The schedule is that of Snakemake's greedy scheduler: whenever a job ends, the job with the highest priority among
    those that are ready and fit starts first. A job that requests more than there is gets all there is. A job without a
    card needs none.
    """
    after = _waiting(jobs)
    open_ = {number: len(before) for number, before in after.items()}
    followers: dict[int, list[int]] = defaultdict(list)
    for number, before in after.items():
        for other in before:
            followers[other].append(number)
    needs = {job.id: (min(job.gpus, gpus), min(job.threads, cores)) for job in jobs}
    rank = {job.id: (-job.priority, place) for place, job in enumerate(jobs)}
    ready: dict[tuple[int, int], list[tuple[tuple[int, int], int]]] = defaultdict(list)
    running: list[tuple[float, int]] = []
    now, free = 0.0, (gpus, cores)

    def offer(number: int) -> None:
        heapq.heappush(ready[needs[number]], (rank[number], number))

    for number, count in open_.items():
        if not count:
            offer(number)
    while True:
        while fit := [queue[0] for need, queue in ready.items() if queue and need[0] <= free[0] and need[1] <= free[1]]:
            _, number = min(fit)
            need = needs[number]
            heapq.heappop(ready[need])
            free = (free[0] - need[0], free[1] - need[1])
            heapq.heappush(running, (now + seconds[number], number))
        if not running:
            return now
        now, number = heapq.heappop(running)
        free = (free[0] + needs[number][0], free[1] + needs[number][1])
        for follower in followers[number]:
            open_[follower] -= 1
            if not open_[follower]:
                offer(follower)


def _waiting(jobs: Sequence[Job]) -> dict[int, frozenset[int]]:
    """Return, by job id, which of `jobs` each job waits for."""
    here = {job.id for job in jobs}
    return {job.id: job.after & here for job in jobs}
