"""The workflow end to end, in a copy of the project with a scale of its own: digits, one repetition, few epochs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import sklearn
import torch
import yaml
from test_unlearners import flat

from palimpsest import models
from palimpsest.pipeline import trace

ROOT = Path(__file__).parents[1]
CELL = "results/tiny/{}/digits/small_cnn_narrow"
TINY = {
    "stand_ins": {
        "datasets": dict.fromkeys(("cifar10", "cifar100", "tiny_imagenet", "mnist", "fashion_mnist", "svhn"), "digits"),
        "models": dict.fromkeys(("resnet50", "lenet", "resnet18_imagenet"), "small_cnn_narrow"),
        "requests": {
            "classes_5_16_25_34_78": "class_0",
            "classes_4_12_66_72_97_143_149_165_175_190": "class_0",
            "random_5000": "random_tenth",
            "random_10000": "random_tenth",
        },
    },
    "budgets": {
        "unlearners": {
            "finetune": {"epochs": 1},
            "random_label": {"epochs": 1},
            "salun": {"epochs": 1},
            "l1_sparse": {"epochs": 1, "alpha": {"tune": [1e-4, 1e-3]}},
            "influence_woodfisher": {"alpha": 1, "samples": 20},
            "influence_woodfisher_corrected": {"alpha": 1, "samples": 20},
            # The methods with a base training of their own stand in no table yet.
            "amnesiac": {"also_in": "uma_table1"},
            "sisa": {"also_in": "uma_table1", "shards": 2},
        },
        "attacks": {
            "uma": {"steps": 2},
            "label_leakage": {"subsets": 4, "subset_size": 20, "epochs": 2},
            "inversion_white_box": {"restarts": 1, "steps": 5},
            "inversion_black_box": {"population": 8, "generations": 3},
        },
        "defenses": {"denoiser": {"steps": 5}},
    },
    "requests": {
        f"{number}_classes" if number != "single" else "single_class": {"repetitions": 2}
        for number in ("single", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    },
    "block": {"other": 2},
    "repetitions": 1,
    "warm_start": True,
}


def snakemake(project: Path, *arguments: str, config: tuple[str, ...] = ("scale=tiny",), check: bool = True) -> str:
    """What `snakemake --cores 2 ARGUMENTS --config CONFIG` says in `project`."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--config", *config]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert not check or done.returncode == 0, said[-5000:]
    return said


def with_recipe(project: Path, **recipe: float) -> list[str]:
    """Arguments that put another recipe behind the scale's network."""
    file = project / "other.yaml"
    file.write_text(yaml.safe_dump({"scale": "tiny", "recipes": {"small_cnn_narrow": {"batch_size": 64, **recipe}}}))
    return ["--configfile", str(file)]


def jobs(said: str) -> dict[str, int]:
    """The job counts of a dry run."""
    lines = said.split("Job stats:")[-1].splitlines() if "Job stats:" in said else []
    return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2 and words[1].isdigit()}


def copied(copy: Path) -> Path:
    """What a run needs of the project, in a folder of its own, with the scale `tiny`."""
    copy.mkdir(exist_ok=True)
    for name in (
        "Snakefile",
        "config",
        "profiles",
        "workflow",
        "src",
        "environment.yml",
        "requirements.lock",
        "README.md",
    ):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    (copy / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return copy


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after one whole run at the scale `tiny`, with a toy unlearner: one file, one line."""
    copy = copied(tmp_path_factory.mktemp("project"))
    (copy / "src" / "palimpsest" / "unlearners" / "toy.py").write_text(
        '"""A toy: weights times a factor."""\n\nfrom copy import deepcopy\n\n\n'
        "def unlearn(model, forget, retain, *, factor=0.5):\n"
        '    """The model with its weights scaled."""\n'
        "    scaled = deepcopy(model)\n"
        "    for parameter in scaled.parameters():\n"
        "        parameter.data *= factor\n"
        "    return scaled\n"
    )
    config = copy / "config" / "config.yaml"
    config.write_text(
        config.read_text().replace("\nattacks:", "  toy: {factor: 0.25, also_in: uma_table1}\n\nattacks:", 1)
    )
    snakemake(copy)
    return copy


def test_a_second_run_has_nothing_to_do_and_a_readme_changes_nothing(project: Path) -> None:
    assert "Nothing to be done" in snakemake(project)
    readme = project / "README.md"
    readme.write_text(readme.read_text() + "\n<!-- a comment -->\n")
    assert "Nothing to be done" in snakemake(project)


def test_the_report_holds_tables_and_pages(project: Path) -> None:
    snakemake(project, "--report", "report.zip")
    with zipfile.ZipFile(project / "report.zip") as report:
        names = {Path(name).name for name in report.namelist()}
    assert {"table1.html", "table1.csv", "index.html"} <= names


def test_a_toy_unlearner_of_one_file_and_one_line_appears_in_table_1(project: Path) -> None:
    table = (project / "results/tiny/papers/uma/table1.md").read_text()
    rows = [line for line in table.splitlines() if "toy" in line]
    assert rows and any(character.isdigit() for character in rows[0]), table
    assert "toy" not in (project / "results/tiny/papers/uma/table2.md").read_text()
    base, toy = (
        models.load(project / path / "seed0.safetensors")
        for path in (CELL.format("base"), CELL.format("unlearned") + "/class_0/toy")
    )
    for name, weight in base.named_parameters():
        assert torch.equal(dict(toy.named_parameters())[name], weight * 0.25)


def test_a_cold_job_gives_what_a_warm_one_gave(project: Path) -> None:
    file = project / CELL.format("rows") / "random_tenth/salun.jsonl"
    warm = file.read_text()
    place = "unlearned/digits/small_cnn_narrow/random_tenth/salun/seed0.safetensors"
    (project / "results/tiny" / place).unlink()
    snakemake(project, str(file.relative_to(project)), config=("scale=tiny", "warm_start=False"))
    assert file.read_text() == warm


def test_methods_with_a_base_training_of_their_own_start_from_it(project: Path) -> None:
    cell = project / CELL.format("base")
    plain, own = (models.load(path) for path in (cell / "seed0.safetensors", cell / "amnesiac/seed0.safetensors"))
    assert torch.equal(flat(plain), flat(own)), "the log changes no weight"
    record = json.loads((cell / "amnesiac/seed0.record.json").read_text())
    asked = {name for name in record["inputs"] if "/forget/" in name}
    assert asked == {"results/tiny/forget/digits/class_0/seed0.json"}, "the requests of the tables that name it"
    vote = models.load(project / CELL.format("unlearned") / "class_0/sisa/seed0.safetensors")
    assert vote.spec.method == "ensemble" and vote.spec.keywords["members"] == 2
    for name in ("amnesiac", "sisa"):
        attack = project / CELL.format("attacked") / f"class_0/{name}/uma/attack.record.json"
        assert (
            f"results/tiny/base/digits/small_cnn_narrow/{name}/seed0.safetensors"
            in json.loads(attack.read_text())["inputs"]
        ), "UMA aims at what this method's own base said"


def test_tuned_values_reach_the_method_and_their_search_is_kept(project: Path) -> None:
    search = json.loads((project / CELL.format("tuned") / "class_0/l1_sparse.json").read_text())
    gaps = {trial["values"]["alpha"]: trial["gap"] for trial in search["trials"]}
    assert set(gaps) == {1e-4, 1e-3} and gaps[search["chosen"]["alpha"]] == min(gaps.values())
    record = json.loads((project / CELL.format("unlearned") / "class_0/l1_sparse/seed0.record.json").read_text())
    assert record["tuned"] == search["chosen"]
    tuning = json.loads((project / CELL.format("tuned") / "class_0/l1_sparse.record.json").read_text())
    assert all("seed0" not in name for name in tuning["inputs"]), "the repetition of the tables is not looked at"


def test_editing_an_unlearner_reruns_it_and_what_depends_on_it(project: Path) -> None:
    file = project / "src/palimpsest/unlearners/finetune.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n# changed\n")
        said = snakemake(project, "-n")
        # Two forget sets of each paper: their models, their attacks, their measurements, then tables and pages.
        assert {"unlearn": 4, "attack": 2, "evaluate": 4}.items() <= jobs(said).items(), said
        assert not {"train", "data", "forget"} & set(jobs(said))
        for line in said.splitlines():
            if "wildcards:" in line and "unlearner=" in line:
                assert "unlearner=finetune" in line
    finally:
        file.write_text(text)
    assert "Nothing to be done" in snakemake(project, "-n")


def test_every_number_leads_to_the_data_by_its_records(project: Path) -> None:
    folder = project / CELL.format("rows") / "class_0"

    def record_of(path: Path) -> dict[str, object]:
        beside = path.with_suffix("").with_suffix(".record.json")
        grouped = path.parent / "attack.record.json"
        return json.loads((beside if beside.exists() else grouped).read_text())

    def walk(path: Path) -> set[str]:
        record = record_of(path)
        relative = str(path.relative_to(project))
        seen = {relative}
        for name, digest in record["inputs"].items():  # type: ignore[attr-defined]
            made_by = record_of(project / name)
            assert made_by["outputs"][name] == digest, f"{relative} was made from another {name}"  # type: ignore[index]
            seen |= walk(project / name)
        return seen

    with (project / "results/tiny/papers/uma/table1.csv").open(newline="") as file:
        records = {cell["record"] for cell in csv.DictReader(file) if cell["unlearner"] == "finetune"}
    assert "rows/digits/small_cnn_narrow/class_0/finetune.record.json" in records
    seen = walk(folder / "finetune.jsonl")
    assert "results/tiny/data/digits.safetensors" in seen
    assert any(name.startswith("results/tiny/base/") for name in seen)
    # The last link: the file that scikit-learn ships.
    (source,) = json.loads((project / "results/tiny/data/digits.record.json").read_text())["sources"].items()
    shipped = Path(sklearn.__file__).parents[1] / source[0].removeprefix("site-packages/")
    assert source[1] == "sha256:" + hashlib.sha256(shipped.read_bytes()).hexdigest()

    links = {link.name: link for link in trace.chain(folder / "finetune.jsonl", project)}
    assert links.keys() == seen | {source[0]} and all(
        link.state in (trace.SAME, trace.SOURCE) for link in links.values()
    )
    model = next(project / name for name in seen if "/base/" in name)
    kept = model.read_bytes()
    model.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    broken = [link.name for link in trace.chain(folder / "finetune.jsonl", project) if not link.whole]
    model.write_bytes(kept)
    assert broken == [str(model.relative_to(project))]
    assert yaml.safe_load((project / "results/tiny/config.yaml").read_text())["attacks"]["uma"]["steps"] == 2


def test_a_killed_training_resumes_and_ends_with_the_same_weights(project: Path) -> None:
    target = CELL.format("base") + "/seed5.safetensors"
    overrides = with_recipe(project, epochs=60, lr=0.001)
    environment = {**os.environ, "PALIMPSEST_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", target, *overrides]

    def run_to_the_end() -> torch.Tensor:
        subprocess.run(command, cwd=project, check=True, capture_output=True, env=environment)
        return flat(models.load(project / target))

    resume = (project / target).with_suffix(".5.resume")
    running = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 120
    while not resume.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert resume.exists() and not (project / target).exists(), "killed in the middle"
    resumed = run_to_the_end()
    log = (project / "logs/tiny/train/digits/small_cnn_narrow/seed5.log").read_text()
    assert "resuming" in log and "epoch 1 of 60" not in log
    assert not resume.exists()
    (project / target).unlink()
    assert torch.equal(run_to_the_end(), resumed)


def test_so_far_counts_what_there_is_while_a_run_goes_on(project: Path) -> None:
    lock = project / ".snakemake" / "locks"
    lock.mkdir(exist_ok=True)
    (lock / "0.input.lock").write_text("")  # as another run would hold it
    row = project / CELL.format("rows") / "class_0" / "finetune.jsonl"
    kept = row.with_suffix(".kept")
    counts = []
    for there in (True, False):
        if not there:
            row.rename(kept)
        said = snakemake(project, "--nolock", "so_far")
        counts.append(tuple(map(int, re.search(r"uma:.*?table1 +(\d+) of +(\d+) cells", said, re.DOTALL).groups())))
    kept.rename(row)
    shutil.rmtree(lock)
    (whole, all_of_it), (part, of_it) = counts
    record = str(row.with_suffix(".record.json").relative_to(project / "results/tiny"))
    assert whole == all_of_it == of_it
    page = (project / "results/tiny/so_far/uma/index.html").read_text()
    with (project / "results/tiny/papers/uma/table1.csv").open(newline="") as file:
        of_the_row = [cell for cell in csv.DictReader(file) if cell["record"] == record]
    assert 0 < len(of_the_row) == whole - part
    assert "not run yet" in page


def test_a_diverged_training_is_a_row_and_stops_nothing(project: Path) -> None:
    target = CELL.format("rows") + "/class_0/original.jsonl"
    kept = (project / target).read_text()
    snakemake(project, target, *with_recipe(project, epochs=1, lr=1e30))
    (row,) = [json.loads(line) for line in (project / target).read_text().splitlines()]
    assert row["status"] == "diverged" and "epoch 1 of 1" in row["reason"]
    snakemake(project, target)
    assert (project / target).read_text() == kept, "the same again, to the byte"


def test_bad_input_ends_in_a_sentence(project: Path) -> None:
    assert "has no scale 'tinny'; Did you mean 'tiny'?" in snakemake(project, config=("scale=tinny",), check=False)
    said = snakemake(project, config=("scale=tiny", "repetition=2"), check=False)
    assert "no key 'repetition'; Did you mean 'repetitions'?" in said and "Job stats" not in said
    target = "results/tiny/data/svhn.safetensors"
    said = snakemake(project, target, config=("scale=tiny", "data_root=nowhere"), check=False)
    assert "train_32x32.mat" in said
    assert not (project / target).exists()
