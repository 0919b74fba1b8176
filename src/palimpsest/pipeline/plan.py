"""Plan before spending: the jobs that Snakemake would run, their longest chain, and their time on a number of cards.

The jobs, their order and which are done come from Snakemake itself; their seconds come from `estimate`.
"""

from __future__ import annotations

import logging
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
        trigger = types.RerunTrigger  # those of profiles/
        settings = types.DAGSettings(
            targets={target},
            max_checksum_file_size=max_checksum_file_size,
            rerun_triggers={trigger.PARAMS, trigger.INPUT, trigger.MTIME},
        )
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
            )
            for job in dag.jobs
        ]


def critical_path(jobs: Sequence[Job], seconds: Mapping[int, float]) -> tuple[float, list[int]]:
    """Return the longest chain of jobs that wait for each other: its seconds, and its ids in order."""
    after = {job.id: job.after & seconds.keys() for job in jobs}
    longest: dict[int, tuple[float, list[int]]] = {}
    for number in TopologicalSorter(after).static_order():
        length, path = max((longest[other] for other in after[number]), default=(0.0, []))
        longest[number] = (length + seconds[number], [*path, number])
    return max(longest.values(), default=(0.0, []))
