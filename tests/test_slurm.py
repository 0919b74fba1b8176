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
from test_workflow import TINY, copied

from palimpsest.pipeline import limits

ROOT = Path(__file__).parents[1]
PROFILE = ["--workflow-profile", "profiles/slurm"]
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
SchedulerParameters=bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:small:2,gpu:large:2
PartitionName=cpu Nodes=ALL Default=YES State=UP
PartitionName=cards Nodes=ALL State=UP
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
        self._until(lambda: self.ask("sinfo", "--noheader", "--partition=cards", "--format=%T") == "idle\n")

    def stop(self) -> None:
        """Kill everything that was started here, jobs included, and remove the folder."""
        self.ask("scancel", "--user=root")
        while ours := [process for process in psutil.process_iter() if self._is_ours(process)]:
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
            streams: dict[str, Any] = {"stdout": said, "stderr": said}
            self.daemons.append(subprocess.Popen(command, env=self.environment, cwd=self.folder, **streams))

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                raise RuntimeError("\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.out")))
            time.sleep(0.2)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            # slurmstepd, which no daemon ends, has no environment that could be read; it stays in slurmd's folder.
            here = Path(process.cwd()) == self.folder
            return here or process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
        except psutil.Error:
            return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    here = Cluster()
    try:
        try:
            here.start()
        except PermissionError as error:
            pytest.skip(f"this root may not make device files, which the pretended cards are: {error}")
        yield here
    finally:
        here.stop()


def snakemake(cluster: Cluster, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A Snakemake on the cluster, with the project's profile, one's own, and what this cluster needs besides."""
    own = folder / "own"
    own.mkdir()
    (own / "profile.yaml").write_text("default-resources: {slurm_partition: cards}\n")
    command = [sys.executable, "-m", "snakemake", *arguments, "--profile", str(own), *HERE]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=cluster.environment, **streams)


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
    priority: 2
    resources: gpu=1, mem_mb=100, runtime=10
    shell: "{sys.executable} job.py {output} 4"
rule probe:
    output: "probe{i}.json"
    resources: gpu=1, mem_mb=100, runtime=10
    shell: "{sys.executable} job.py {output} 1"
rule unlearn:
    output: "unlearn.json"
    priority: 1
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
time.sleep(1)
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
    running = snakemake(cluster, folder, *PROFILE)
    yield folder, running
    running.kill()
    running.wait()


@pytest.fixture(scope="module")
def toys_done(cluster: Cluster, toys: tuple[Path, subprocess.Popen[str]]) -> tuple[Path, list[dict[str, str]]]:
    """Where the toys left their files, and what SLURM knows of them."""
    folder, running = toys
    return folder, cluster.submissions(end(running))


def reports(folder: Path, rule: str) -> list[dict[str, Any]]:
    """What the toys of a rule wrote, in the order in which they ran."""
    found = [json.loads(file.read_text()) for file in folder.glob(f"{rule}*.json")]
    return sorted(found, key=lambda report: report["from"])


def of_rule(jobs: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [job for job in jobs if job["Comment"].startswith(f"rule_{name}")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one small table, and an unlearner that says in its log what it sees."""
    copy = tmp_path_factory.mktemp("project")
    copied(copy)
    recipes = {"small_cnn_narrow": {"epochs": 1}}
    scale = {**TINY, "budgets": {}, "requests": {}, "recipes": recipes, "gpu": 1, "mem_mb": 1000, "runtime": 20}
    (copy / "config/scales/tiny.yaml").write_text(yaml.safe_dump(scale))
    (copy / "src/palimpsest/unlearners/toy.py").write_text(
        '"""A toy: it leaves the model as it is."""\n\nimport logging\nimport os\n\nimport torch\n\n'
        "from palimpsest.unlearners import unlearner\n\n\n"
        "@unlearner\n"
        "def unlearn(model, forget, retain, at):\n"
        '    """The model."""\n'
        "    seen = [os.environ[name] for name in ('CUDA_VISIBLE_DEVICES', 'PALIMPSEST_WARM', 'SLURM_JOB_ID')]\n"
        "    said = 'sees card %s, warm %r, job %s, %d threads'\n"
        "    logging.getLogger('palimpsest').info(said, *seen, torch.get_num_threads())\n"
        "    return model\n"
    )
    config = copy / "config/config.yaml"
    config.write_text(config.read_text().replace("\nattacks:", "  toy: {also_in: uma_table1}\n\nattacks:", 1))
    shutil.rmtree(copy / "config/papers/leakage")
    paper = copy / "config/papers/uma"
    about = yaml.safe_load((paper / "paper.yaml").read_text())
    only = {"figures": {}, "tables": {"table1": about["tables"]["table1"]}, "claims": about["claims"][:1]}
    (paper / "paper.yaml").write_text(yaml.safe_dump(about | only))
    for other in set(paper.glob("*.csv")) - {paper / "table1.csv"}:
        other.unlink()
    head, *lines = (paper / "table1.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.startswith("cifar10,resnet50,class_0,retrain,none")]
    (paper / "table1.csv").write_text("".join([head, *kept]))
    return copy


@pytest.mark.long
@needs_slurm
@pytest.mark.usefixtures("toys")
def test_a_table_is_made_by_jobs_on_the_cluster(cluster: Cluster, project: Path) -> None:
    target = ["uma_table1", "--config", "scale=tiny"]
    # First the data, here and not on the cluster, whose nodes may have no internet.
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--until", "data", *target]
    subprocess.run(command, cwd=project, env=cluster.environment, check=True, capture_output=True)
    assert (project / "results/tiny/data/digits.safetensors").exists()

    jobs = cluster.submissions(end(snakemake(cluster, project, *PROFILE, *target)))
    assert "| toy " in (project / "results/tiny/papers/uma/table1.md").read_text()
    assert len(jobs) == 5, "the base model, two unlearners, a group that predicts with both and one that measures both"
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert {job["Partition"] for job in jobs} == {"cards"}, "as one's own profile says"
    (train,), (predictions,), (measurements,) = (of_rule(jobs, n) for n in ("train", "predictions", "measurements"))
    assert {job["TresPerJob"] for job in jobs if job is not measurements} == {"gres:gpu:1"}
    assert "TresPerJob" not in measurements, "numbers are computed without a card"
    limits = [job["TimeLimit"] for job in (train, predictions, measurements)]
    assert limits == ["00:20:00", "01:00:00", "01:00:00"], "of a group the sum of its two members' minutes"

    log = (project / "logs/tiny/unlearn/digits/small_cnn_narrow/class_0/toy/0.log").read_text()
    (card, warm, number, threads) = re.search(r"sees card (\d), warm '(.*)', job (\d+), (\d+) threads", log).groups()
    assert card in "0123" and warm == "" and threads == "1"
    assert number in {job["JobId"] for job in of_rule(jobs, "unlearn")}


@pytest.mark.long
@needs_slurm
def test_jobs_at_the_same_time_have_a_card_each_and_lock_none(toys_done: tuple[Path, list[dict[str, str]]]) -> None:
    folder, jobs = toys_done
    ran = reports(folder, "train")
    assert max(job["from"] for job in ran) < min(job["to"] for job in ran), "all four at once"
    assert sorted(job["preset"] for job in ran) == ["0", "1", "2", "3"]
    assert all(job["cards"] == [job["preset"]] and job["locks"] == 0 for job in ran)
    assert [job["TresPerJob"] for job in of_rule(jobs, "train")] == ["gres:gpu:1"] * 4


@pytest.mark.long
@needs_slurm
def test_a_group_asks_for_one_card_and_the_sum_of_its_minutes(toys_done: tuple[Path, list[dict[str, str]]]) -> None:
    folder, jobs = toys_done
    (group,) = of_rule(jobs, "probe")
    assert group["TresPerJob"] == "gres:gpu:large:1", "of the model that the profile names"
    assert (group["TimeLimit"], group["NumCPUs"], group["MinMemoryNode"]) == ("01:30:00", "1", "100M")
    ran = reports(folder, "probe")
    assert len(ran) == 3 and all(before["to"] <= after["from"] for before, after in pairwise(ran))
    assert {job["preset"] for job in ran} in ({"2"}, {"3"}), "one of the two large ones for all"


@pytest.mark.long
@needs_slurm
def test_a_job_killed_by_its_limit_comes_back_with_twice_of_it(toys_done: tuple[Path, list[dict[str, str]]]) -> None:
    folder, jobs = toys_done
    first, second = of_rule(jobs, "unlearn")
    assert (first["JobState"], first["TimeLimit"], first["MinMemoryNode"]) == ("TIMEOUT", "00:01:00", "100M")
    assert (second["JobState"], second["TimeLimit"], second["MinMemoryNode"]) == ("COMPLETED", "00:02:00", "200M")
    assert len(reports(folder, "unlearn")) == 1


def test_memory_grows_with_the_attempt_and_with_the_inputs_that_are_there(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(bytes(3_000_000))
    asked = [limits.memory(100)(None, [str(there), str(tmp_path / "not yet")], attempt) for attempt in (1, 2)]
    assert asked == [106, 212]


def test_the_profile_repeats_what_holds_on_one_machine() -> None:
    default, slurm = (
        yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text()) for name in ("default", "slurm")
    )
    del default["resources"], default["cores"]  # of one machine
    assert default.items() <= slurm.items()
    assert "default-resources" not in slurm, "it would discard the account and partition of one's own profile"
