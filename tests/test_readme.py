"""README and docs: each command is run here or named with the test that runs it, and what they refer to exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_workflow import ROOT, copied

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    line.split("  #")[0].strip()
    for page in PAGES
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if re.match(r"([A-Z_]+=\S+ )?(snakemake|dvc|git|make|python|pytest) ?", line)
]
# Those that a dry run says nothing of, and where they run.
ELSEWHERE = {
    "git clone … && cd palimpsest": ".ci/run begins in a clone",
    "make demo": ".ci/run",
    "python benchmarks/gpu.py --data data --dataset cifar10 --model resnet18": "test_benchmarks.py, on the digits",
    "make test": ".ci/run, within make test-all",
    "make test-avx2": ".ci/run",
    "make mutants": "by hand; test_mutants.py has its parts",
    "make test-all": "by hand; its parts are .ci/run's, the kills of test_crash.py and test_slurm.py",
    "make test-stale": ".ci/run",
    "PALIMPSEST_TRIALS=100 make test-stale": ".ci/run, with ten trials",
    "snakemake --report report.zip": "test_workflow.py",
    "snakemake --unlock": "test_crash.py",
    "snakemake --workflow-profile profiles/slurm --config scale=paper --profile mine": "test_slurm.py",
}
ALONE = "PYTHONPATH=src python workflow/scripts/"  # a script by itself: test_workflow.py runs one
TRACE = "PYTHONPATH=src python -m palimpsest.pipeline.trace "
DRY = [one for one in dict.fromkeys(COMMANDS) if re.match(r"(PYTHONPATH=src )?snakemake", one) and one not in ELSEWHERE]

# Where words stand that may name a file or a place in the docs.
WRITTEN = [
    *PAGES,
    *(ROOT / name for name in ("Snakefile", "CHANGELOG.md", "benchmarks/README.md")),
    *(file for folder in ("src", "workflow", "tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))),
    *(file for folder in ("config", "workflow", "profiles") for file in sorted((ROOT / folder).rglob("*.yaml"))),
    *sorted((ROOT / "workflow").rglob("*.smk")),
]
# Folders of this repository with files of our own; those of the package are named without src/palimpsest/.
TOP = ("src", "workflow", "config", "docs", "tests", "benchmarks", "profiles")
PACKAGE = ("attacks", "data", "defenses", "metrics", "models", "pipeline", "report", "requests", "tasks", "unlearners")
NAMED = re.compile(rf"(?<![\w./<{{*…-])((?:{'|'.join({*TOP, *PACKAGE})})/[\w./-]+\.(?:py|smk|yaml|md|j2|css|csv|sh))\b")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("command", DRY)
def test_a_command_for_snakemake_plans(command: str, project: Path) -> None:
    words = [sys.executable, "-m", *shlex.split(command.removeprefix("PYTHONPATH=src ")), "-n"]
    environment = {**os.environ, "PYTHONPATH": "src"} if command.startswith("PYTHONPATH") else None
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Job stats" in said, said[-3000:]


def test_a_result_of_the_demo_is_traced_as_the_readme_says() -> None:
    (command,) = [one for one in COMMANDS if one.startswith(TRACE)]
    words = [sys.executable, *shlex.split(command)[2:]]
    if not (ROOT / words[-1]).is_file():
        pytest.skip("the demo has not been run here")
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "[raw data; sha256:" in done.stdout, "the chain ends at files that nobody here made"
    assert "changed since" not in done.stdout


def test_every_other_command_is_run_by_a_test_that_is_named() -> None:
    dvc = (ROOT / "tests" / "test_dvc.py").read_text()
    for command in COMMANDS:
        if command.startswith("dvc"):
            wanted = [word for word in shlex.split(command)[1:] if "/" not in word and "…" not in word]
            assert all(f'"{word}"' in dvc or f" {word}" in dvc for word in wanted), command
        elif command not in DRY:
            known = command in ELSEWHERE or command.startswith((ALONE, TRACE, "git add dvc.lock"))
            assert known, command
    assert set(ELSEWHERE) <= set(COMMANDS), "a command that no page has any more"


@pytest.mark.parametrize("paper", sorted(file.parent.name for file in (ROOT / "config/papers").glob("*/paper.yaml")))
def test_the_claims_of_a_paper_are_those_of_its_pages(paper: str) -> None:
    (table,) = re.findall(rf"<!-- claims: {paper} -->\n.*?\n.*?\n(.*?)<!-- end -->", PAGES[0].read_text(), re.DOTALL)
    said = [line.removeprefix("| ").partition(" | ")[0] for line in table.splitlines()]
    about = yaml.safe_load((ROOT / "config/papers" / paper / "paper.yaml").read_text())
    assert said == [f"{one['says']} ({one['source']})" for one in about["claims"]], "`make claims` writes them anew"


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may name: its own anchors, and its headings as a reader's browser has them."""
    text = page.read_text()
    headings = (
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    )
    return {*re.findall(r'<a id="([^"]+)">', text), *headings}


def test_every_place_in_the_docs_that_is_named_is_there() -> None:
    places = {page.name: anchors(page) for page in (ROOT / "docs").glob("*.md")}
    lost = []
    for file in WRITTEN:
        text = file.read_text()
        named = [(page, place) for page, place in re.findall(r"docs/(\w+\.md)#([\w-]+)", text)]
        # Sections of the methods are named by their number: "docs/methods.md 2.3".
        named += [
            ("methods.md", number.replace(".", "-"))
            for several in re.findall(r"docs/methods\.md\s+(?:#\s*)?((?:\d\.\d+(?:, | and )?)+)", text)
            for number in re.findall(r"\d\.\d+", several)
        ]
        if file.parent.name == "docs":
            named += [(page or file.name, place) for page, place in re.findall(r"\]\((\w+\.md)?#([\w-]+)\)", text)]
        lost += [
            f"{file.relative_to(ROOT)}: {page}#{place}" for page, place in named if place not in places.get(page, ())
        ]
    assert not lost


def test_every_file_of_ours_that_is_named_exists() -> None:
    lost = []
    for file in WRITTEN:
        if file.parent.name == "tests":  # they name files that they make
            continue
        ours = re.sub(r"\[C [^\]]*\]", "", file.read_text())  # not those of public code
        names = (name for name in NAMED.findall(ours) if not {"mine.py", "results"} & {*name.split("/")})
        missing = (name for name in names if not any((at / name).is_file() for at in (ROOT, ROOT / "src/palimpsest")))
        lost += [f"{file.relative_to(ROOT)}: {name}" for name in missing]
    assert not lost


def test_every_page_that_is_linked_exists() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_no_document_outside_the_repository_is_referred_to() -> None:
    outside = re.compile(r"(?<![/\w])methods\.md\s\d|\bS00[0-9]:\d")
    found = [file for file in WRITTEN if file != Path(__file__) and outside.search(file.read_text())]
    assert not found
