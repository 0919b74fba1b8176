"""Warm start: a handed-over script is the job in all but its process, and neither half outlives the other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from palimpsest.pipeline import warm

SRC = Path(warm.__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's; elsewhere jobs run cold")


@pytest.fixture(scope="module")
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process in Snakemake's place, with a server that is ready."""
    process = subprocess.Popen(["sleep", "600"])
    subprocess.Popen([sys.executable, "-P", warm.__file__, str(process.pid)], start_new_session=True)
    until(lambda: answers(process.pid), "the server listens")
    yield process
    process.kill()
    process.wait()
    until(lambda: not answers(process.pid), "the server ends with its owner")


def answers(pid: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        return line.connect_ex(warm._address(str(pid))) == 0


def until(true: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def start(folder: Path, body: str, owner: subprocess.Popen[bytes] | None, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(f"from palimpsest.pipeline import warm\nwarm.hand_over()\n{body}\n")
    environment = {**os.environ, "PYTHONPATH": str(SRC), "MARK": "its own"}
    if owner:
        environment[warm.SWITCH] = str(owner.pid)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


ABOUT = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["MARK"], "torch" in sys.modules, warm.SWITCH in os.environ, __name__)
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


def test_a_script_keeps_arguments_folder_environment_streams_and_status(
    tmp_path: Path, owner: subprocess.Popen[bytes]
) -> None:
    said = {}
    for name, given in (("cold", None), ("warm", owner)):
        job = start(tmp_path, ABOUT, given, "one", "two")
        said[name] = (*job.communicate(), job.returncode)
    out = "['one', 'two'] {} its own {} False __main__\n"
    assert said["cold"] == (out.format(tmp_path, False), "to stderr\n", 3)
    assert said["warm"] == (out.format(tmp_path, True), "to stderr\n", 3)


def test_snakemakes_scripts_are_handed_over_before_their_first_line(
    tmp_path: Path, owner: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / ".snakemake" / "scripts"
    folder.mkdir(parents=True)
    for place, wanted in ((folder, "True"), (tmp_path, "False")):
        (place / "job.py").write_text("import sys; print('torch' in sys.modules)")
        paths = os.pathsep.join([warm.EARLY, str(SRC)])
        environment = {**os.environ, "PYTHONPATH": paths, warm.SWITCH: str(owner.pid)}
        said = subprocess.check_output([sys.executable, str(place / "job.py")], env=environment, text=True)
        assert said.strip() == wanted


def test_an_error_is_told_and_fails(tmp_path: Path, owner: subprocess.Popen[bytes]) -> None:
    job = start(tmp_path, "raise RuntimeError('such is life')", owner)
    _, errors = job.communicate()
    assert job.returncode == 1 and "such is life" in errors


def test_the_packages_own_code_is_never_stale(tmp_path: Path, owner: subprocess.Popen[bytes]) -> None:
    body = (
        "import sys, loaded_late; print(loaded_late.VALUE, any(n.startswith('palimpsest.models') for n in sys.modules))"
    )
    for value in ("first", "second"):
        (tmp_path / "loaded_late.py").write_text(f"VALUE = {value!r}\n")
        assert start(tmp_path, body, owner).communicate()[0] == f"{value} False\n"
        time.sleep(1.1)  # a bytecode file is told from a newer source by its whole second


SLEEP = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"


def copy_of(job: subprocess.Popen[str], folder: Path) -> int:
    until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the copy runs")
    pid = int((folder / "pid").read_text())
    assert pid != job.pid, "another process does the work"
    return pid


def test_a_killed_job_takes_its_copy_with_it(tmp_path: Path, owner: subprocess.Popen[bytes]) -> None:
    job = start(tmp_path, SLEEP, owner)
    pid = copy_of(job, tmp_path)
    job.kill()
    job.communicate()
    until(lambda: not warm._alive(pid), "the copy ends")


def test_a_killed_copy_fails_its_job(tmp_path: Path, owner: subprocess.Popen[bytes]) -> None:
    job = start(tmp_path, SLEEP, owner)
    os.kill(copy_of(job, tmp_path), signal.SIGKILL)
    _, errors = job.communicate()
    assert job.returncode == 1 and "was killed" in errors


def test_without_a_server_a_job_runs_by_itself(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    job = start(tmp_path, "import sys; print('torch' in sys.modules)", gone)  # type: ignore[arg-type]
    assert job.communicate()[0] == "False\n" and job.returncode == 0
