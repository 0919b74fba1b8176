"""Warm start: jobs run in a copy of a process that has already imported torch and the other slow packages.

A small job computes for a second and imports for three. With `warm_start: true` the first job of a run starts a server,
which imports what jobs need, but nothing of this package. Every later job hands its script over: the server forks, and
the copy runs the script with the job's own arguments, environment, folder and streams, and gives its exit status. Job
and copy, of one user, live and die together; the server ends with its Snakemake. Without a server (not started yet, not
Linux, an error) a job runs as if none of this existed; results are the same bit for bit.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

SWITCH = "PALIMPSEST_WARM"  # the process id of the Snakemake whose jobs may start warm
EARLY = str(Path(__file__).with_name("early"))  # on PYTHONPATH, makes Python hand a job's script over at its very start
BORN = "PALIMPSEST_BORN"  # when the process of the job itself started, in seconds since the epoch; for its copy
PRELOADED = (
    "snakemake.script",
    "torch",
    "torch._dynamo",
    "torch.func",
    "safetensors.torch",
    "sklearn.svm",
    "seaborn",
    "jinja2",
)


def environment(starts_warm: bool) -> dict[str, str]:
    """Return the variables with which the jobs of this process find the package, and its server where they start so."""
    paths = [EARLY] * starts_warm + [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {SWITCH: str(os.getpid()) if starts_warm else "", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def hand_over() -> None:
    """Run this job's script in a copy of the server and exit with its status; return where the script must run here."""
    owner = os.environ.get(SWITCH)
    if not owner or sys.platform != "linux":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(_address(owner))
        except OSError:
            # This job runs cold; the server will be there for the next one. If several start, only the first can bind.
            command = [sys.executable, "-P", __file__, owner]
            quiet = subprocess.DEVNULL
            subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
            return
        if not _same_user(line):
            return
        sys.stdout.flush()
        sys.stderr.flush()
        environment = {**os.environ, BORN: str(born())}
        task = {"argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "environment": environment}
        socket.send_fds(line, [b"!"], [0, 1, 2])
        line.sendall(json.dumps(task).encode() + b"\n")
        status = line.recv(1)
    if not status:
        sys.stderr.write("The job's process was killed; memory that ran out is the usual cause. Run again.\n")
    os._exit(status[0] if status else 1)


def born() -> float:
    """Return when this job's process started, in seconds since the epoch; in a copy, when its job's process did."""
    handed = os.environ.get(BORN)
    if handed:
        return float(handed)
    if sys.platform != "linux":
        import psutil  # Snakemake brings it; a tenth of a second that Linux does not need

        return float(psutil.Process().create_time())
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since boot: man 5 proc, field 22
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def serve(owner: str) -> None:
    """Import what jobs need, then fork for each job that connects, until process `owner` is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(_address(owner))
        except OSError:
            return  # another server was faster
        for module in PRELOADED:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # or the first collection in each copy would touch, and so copy, every page
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies are not waited for
        listener.listen(64)  # from here on jobs find the server
        listener.settimeout(1)
        while _alive(int(owner)):
            try:
                line, _ = listener.accept()
            except TimeoutError:
                continue
            if _same_user(line) and os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(line)
            line.close()


def _run(line: socket.socket) -> None:
    """Become the job in the copy: run its script, send its status, and end."""
    status = 1
    try:
        line.settimeout(None)
        _, streams, _, _ = socket.recv_fds(line, 1, 3)
        task = json.loads(line.makefile().readline())
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 — lives as long as the process
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(task["environment"])
        del os.environ[SWITCH]  # else the script would be handed over once more
        os.chdir(task["folder"])
        sys.argv, sys.path[:] = task["argv"], task["path"]
        threading.Thread(target=_end_with, args=(line,), daemon=True).start()
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        line.sendall(bytes([status & 255]))
        os._exit(status)


def _end_with(line: socket.socket) -> None:
    """Wait until the job at the other end vanishes, and vanish too."""
    line.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _address(owner: str) -> str:
    """Return an address in Linux's abstract namespace, where no file is left behind, whatever happens."""
    return f"\0palimpsest-{os.getuid()}-{owner}"


def _same_user(line: socket.socket) -> bool:
    peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    serve(sys.argv[1])
