"""The workflow on a real SLURM of one node, started here, whose four cards are pretended: no job computes on them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from test_workflow import TINY, copy_project

from palimpsest.pipeline import limits

ROOT = Path(__file__).parents[1]
# What a SLURM without accounting needs, and what makes waiting short.
HERE = [
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
    *("--seconds-between-status-checks", "2", "--max-status-checks-per-second", "5", "--latency-wait", "10"),
]
absent = [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name) is None]
needs_slurm = pytest.mark.skipif(
    bool(absent) or os.getuid() != 0,
    reason=f"a SLURM of one's own needs root and Debian's slurm-wlm and munge; lacking: {', '.join(absent) or 'root'}",
)

SLURM = """
ClusterName=palimpsest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:small:2,gpu:large:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CARDS = """
Name=gpu Type=small File={folder}/nvidia[0-1]
Name=gpu Type=large File={folder}/nvidia[2-3]
"""


class Cluster:
    """A SLURM in a folder of its own; nothing of the machine's own configuration is read or touched."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket's name has a hundred letters at most
        self.daemons: list[subprocess.Popen[bytes]] = []
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA", "SBATCH"))}
        self.environment = {
            **own,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def start(self) -> None:
        ports = []
        for _ in range(2):
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                ports.append(found.getsockname()[1])
        host = socket.gethostname().split(".")[0]
        text = SLURM.format(folder=self.folder, host=host, controller_port=ports[0], node_port=ports[1])
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(CARDS.format(folder=self.folder))
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir()
        # With any other kind of file SLURM accepts a card and then names none to the job.
        for index in range(4):
            os.mknod(self.folder / f"nvidia{index}", stat.S_IFCHR | 0o666, os.makedev(195, index))
        # The executor takes SLURM_CONF out of a job's environment before it calls srun there.
        wrapped = self.folder / "bin/srun"
        wrapped.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        wrapped.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        kinds = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        munge = [f"--{option}={self.folder}/munge.{kind}" for option, kind in kinds.items()]
        self._run("munged", "--foreground", "--force", *munge)
        self._until((self.folder / "munge.socket").exists)
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D")
        self._until(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle\n")

    def stop(self) -> None:
        """Kill everything that was started here, jobs included, and remove the folder."""
        self.ask("scancel", "--user=root")
        ours = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in ours:
            process.kill()
        for daemon in self.daemons:
            daemon.wait()
        psutil.wait_procs(ours, timeout=20)
        shutil.rmtree(self.folder)

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def submissions(self, said: str) -> list[dict[str, str]]:
        """What SLURM knows of each job that a Snakemake says it submitted, in that order."""
        numbers = re.findall(r"submitted with SLURM jobid (\d+)", said)
        shown = [self.ask("scontrol", "--oneliner", "show", "job", number) for number in numbers]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown]

    def _run(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as said:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=said, stderr=said))

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                raise RuntimeError("\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.out")))
            time.sleep(0.2)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"])
        except psutil.Error:
            return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    here = Cluster()
    try:
        here.start()
        yield here
    finally:
        here.stop()


def snakemake(cluster: Cluster, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A Snakemake on the cluster, with the project's profile and what this cluster needs besides."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", *arguments, *HERE]
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=out, stderr=subprocess.STDOUT, text=True)


def end(running: subprocess.Popen[str]) -> str:
    said, _ = running.communicate(timeout=600)
    assert running.returncode == 0, said[-8000:]
    return said


SNAKEFILE = """
import sys
from palimpsest.pipeline import limits
rule all:
    input:
        expand("train{i}.json", i=range(4)), expand("probe{i}.json", i=range(3)), "unlearn.json"
rule train:
    output: "train{i}.json"
    resources: gpu=1, mem_mb=100, runtime=10
    shell: "{sys.executable} job.py {output} 4"
rule probe:
    output: "probe{i}.json"
    resources: gpu=1, mem_mb=100, runtime=10
    shell: "{sys.executable} job.py {output} 1"
rule unlearn:
    output: "unlearn.json"
    resources: mem_mb=limits.memory(100), runtime=limits.runtime(1)
    shell: "test {resources.runtime} -gt 1 || sleep 600; {sys.executable} job.py {output} 1"
"""
JOB = """
import glob, json, os, sys, time
from palimpsest.pipeline import gpu
output, company = sys.argv[1], int(sys.argv[2])
preset = os.environ.get("CUDA_VISIBLE_DEVICES")
cards = gpu.lease(1)
started = time.time()
open(f"{output}.here", "w").close()
while len(glob.glob("train*.here")) < company and time.time() < started + 240:
    time.sleep(0.1)
about = {"preset": preset, "cards": cards, "locks": len(gpu._held), "from": started, "to": time.time()}
json.dump(about, open(output, "w"))
"""


@pytest.fixture(scope="module")
def toys(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Jobs that mostly wait, named like rules of the workflow, under its profile; they run while other tests do."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "job.py").write_text(JOB)
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    profile["set-resources"]["probe"]["gpu_model"] = "large"
    (folder / "profiles/slurm").mkdir(parents=True)
    (folder / "profiles/slurm/profile.yaml").write_text(yaml.safe_dump(profile))
    running = snakemake(cluster, folder)
    yield folder, running
    running.kill()
    running.wait()


@pytest.fixture(scope="module")
def toys_done(cluster: Cluster, toys: tuple[Path, subprocess.Popen[str]]) -> tuple[Path, list[dict[str, str]]]:
    """Where the toys left their files, and what SLURM knows of them."""
    folder, running = toys
    return folder, cluster.submissions(end(running))


def reports(folder: Path, rule: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in folder.glob(f"{rule}*.json")]


def of_rule(jobs: list[dict[str, str]], rule: str) -> list[dict[str, str]]:
    return [job for job in jobs if job["Comment"].startswith(f"rule_{rule}")]


@needs_slurm
def test_a_table_is_made_by_jobs_on_the_cluster(cluster: Cluster, toys: object, tmp_path: Path) -> None:
    copy_project(tmp_path)
    scale = {**TINY, "gpu": 1, "threads": 2, "mem_mb": 1000, "runtime": 20}
    (tmp_path / "config/scales/tiny.yaml").write_text(yaml.safe_dump(scale))
    shutil.rmtree(tmp_path / "config/papers/leakage")
    paper = tmp_path / "config/papers/uma"
    about = yaml.safe_load((paper / "paper.yaml").read_text())
    (paper / "paper.yaml").write_text(yaml.safe_dump({**about, "tables": {"table1": about["tables"]["table1"]}}))
    head, *lines = (paper / "table1.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.startswith(("cifar10,resnet50,class_0,retrain,none", "cifar10,resnet50,class_0,finetune,none"))]
    (paper / "table1.csv").write_text("".join([head, *kept]))

    # By hand, where the internet is, before the cluster is asked for anything.
    local = [sys.executable, "-m", "snakemake", "--cores", "1", "--until", "data", "--config", "scale=tiny"]
    subprocess.run([*local, "--", "uma_table1"], cwd=tmp_path, env=cluster.environment, check=True)

    said = end(snakemake(cluster, tmp_path, "--config", "scale=tiny", "--", "uma_table1"))
    print(said)
    for job in cluster.submissions(said):
        print(job)


@needs_slurm
def test_toys(toys_done) -> None:
    folder, jobs = toys_done
    for job in jobs:
        print(job)
    print(reports(folder, "train"), reports(folder, "probe"), reports(folder, "unlearn"))
