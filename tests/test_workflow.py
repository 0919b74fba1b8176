"""The workflow end to end, in a copy of the project with a scale of its own: digits, one repetition, few epochs."""

from __future__ import annotations

import csv
import difflib
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn
import torch
import yaml
from planted import CRAFTED, METHODS, METRIC, PAPER
from test_unlearners import flat

from palimpsest import data, models, numbered, requests, train, unlearners
from palimpsest.pipeline import trace
from palimpsest.pipeline.address import seed_of
from palimpsest.pipeline.cells import Run
from palimpsest.unlearners import finetune, sisa

ROOT = Path(__file__).parents[1]
PLACE = "digits/small_cnn_narrow"
CELL = f"results/tiny/{{}}/{PLACE}"
TINY = {
    "stand_ins": {
        "datasets": {
            **dict.fromkeys(
                ("cifar10", "cifar10_40", "cifar100", "tiny_imagenet", "mnist", "fashion_mnist", "svhn", "afhq"),
                "digits",
            ),
            **dict.fromkeys(("mnist_spares", "cifar10_spares", "afhq_spares"), "digits_spares"),
        },
        "models": {
            **dict.fromkeys(
                ("resnet50", "lenet", "resnet18_imagenet", "resnet18_sgd", "resnet50_imagenet", "efficientnet_b0"),
                "small_cnn_narrow",
            ),
            "convnet6": "convnet6_thin",
        },
        "requests": {
            "classes_5_16_25_34_78": "class_0",
            "classes_4_12_66_72_97_143_149_165_175_190": "class_0",
            "random_5000": "random_tenth",
            "random_10000": "random_tenth",
            "class_4_25": "class_7_25",
            "class_2_25": "class_7_25",
        },
    },
    "budgets": {
        "unlearners": {
            "finetune": {"epochs": 1, "lr": 0.01},
            "random_label": {"epochs": 1, "lr": 0.013},
            "salun": {"epochs": 1, "lr": 0.013},
            "l1_sparse": {"epochs": 1, "alpha": {"tune": [1e-4, 1e-3]}},
            "influence_woodfisher": {"alpha": 1, "samples": 20},
            "influence_woodfisher_corrected": {"alpha": 1, "samples": 20},
            **{name: {"depth": 3} for name in ("influence_25", "influence_25_mean", "influence_calibrated")},
            # The methods with a base training of their own stand in no table yet.
            "amnesiac": {"also_in": "uma_table1"},
            "sisa": {"also_in": "uma_table1", "shards": 2},
            "sisa_3x5": {"slices": 1},
        },
        "requests": {"first_order_6": {"steps": 2}, "sisa_6": {"steps": 2, "shards": 2}},
        "tuning": {"repetitions": 1, "trials": 2},
        "attacks": {
            "uma": {"steps": 2},
            "label_leakage": {"subsets": 4, "per_side": 10, "subset_size": 20, "epochs": 2, "shadow_heads": 2},
            "inversion_white_box": {"restarts": 1, "steps": 5},
            "inversion_black_box": {"population": 8, "generations": 3},
        },
        "defenses": {"denoiser": {"steps": 5}},
    },
    "requests": {
        f"{number}_classes" if number != "single" else "single_class": {"repetitions": 2}
        for number in ("single", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    }
    | {request: {"repetitions": 2} for request in ("class_7_25", "worst_25", "percent_5", "first_order_6", "sisa_6")},
    "block": {"other": 2},
    "recipes": {"small_cnn": {"epochs": 2}},
    "repetitions": 1,
    "warm_start": True,
}

# Every table of the first two papers, a figure of each kind, and what of the others is like nothing of these.
KEPT = {
    "uma": ["table1", "table2", "table4", "memory", "released", "purification", "pictures", "steps"],
    "leakage": [*(f"table{number}" for number in range(3, 9)), "figure3", "figure4", "figure5", "figure9", "figure16"],
    "healing": ["table1", "table6", "exact"],
    "malicious": ["requests"],
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


def only(project: Path, kept: dict[str, list[str]]) -> Path:
    """The project with these tables and figures of these papers, and with the claims about them alone."""
    for folder in (project / "config" / "papers").iterdir():
        if folder.name not in kept:  # what it adds to the configuration stays: the scale cuts some of it
            for file in set(folder.iterdir()) - {folder / "config.yaml"}:
                file.unlink()
            continue
        about = yaml.safe_load((folder / "paper.yaml").read_text())
        for kind in ("tables", "figures"):
            about[kind] = {name: own for name, own in about.get(kind, {}).items() if name in kept[folder.name]}
        there = {*about["tables"], *about["figures"]}
        about["claims"] = [
            claim for claim in about.get("claims", [])
            if there >= ({claim["table"]} if isinstance(claim["table"], str) else {*claim["table"]})
        ]  # fmt: skip
        (folder / "paper.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        for file in folder.glob("*.csv"):
            if file.stem not in there:
                file.unlink()
    return project


@pytest.fixture
def project(finished: Path) -> Path:
    """The finished project that all tests share; what a test changes it changes back."""
    return finished


def edit(files: list[Path], change: Callable[[str], str]) -> Callable[[], None]:
    """Change files; what is returned puts back what they were."""
    texts = {file: file.read_text() for file in files}
    for file, text in texts.items():
        file.write_text(change(text))

    def undo() -> None:
        for file, text in texts.items():
            file.write_text(text)

    return undo


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


# What a newcomer touches


def files_of(project: Path) -> dict[str, str]:
    """Every text that a run depends on."""
    found = [file for folder in ("src", "workflow", "config") for file in (project / folder).rglob("*")]
    texts = [file for file in found if file.is_file() and file.suffix != ".pyc"]
    return {str(file.relative_to(project)): file.read_text() for file in [project / "Snakefile", *texts]}


def test_a_method_is_one_file_and_one_line_and_a_paper_is_its_folder(project: Path, tmp_path: Path) -> None:
    before, after = files_of(only(copied(tmp_path), KEPT)), files_of(project)
    files = [f"src/palimpsest/{name}" for name in (*(method[0] for method in METHODS.values()), METRIC[0], CRAFTED[0])]
    folder = [f"config/papers/planted/{name}" for name in PAPER]
    assert after.keys() - before.keys() == {*files, *folder}
    assert [name for name in before if after[name] != before[name]] == ["config/config.yaml"]
    lines = difflib.ndiff(*(each["config/config.yaml"].splitlines() for each in (before, after)))
    assert sum(line.startswith("+ ") for line in lines) == len(METHODS), "one line each"


def test_each_new_method_stands_in_its_table_with_a_number(project: Path) -> None:
    with (project / "results/tiny/papers/planted/methods.csv").open(newline="") as file:
        found = {(cell["attack"], cell["metric"]): cell["mean"] for cell in csv.DictReader(file)}
    assert float(found["none", "forget_count"]) == 20, "the new metric counts what the new request asks for"
    assert found["none", "forget_accuracy"] and found["plain_noise", "forget_accuracy"]
    assert "A planted paper" in (project / "results/tiny/papers/planted/index.html").read_text()


def test_a_toy_unlearner_of_one_file_and_one_line_appears_in_table_1(project: Path) -> None:
    table = (project / "results/tiny/papers/uma/table1.md").read_text()
    rows = [line for line in table.splitlines() if "toy" in line]
    assert rows and any(character.isdigit() for character in rows[0]), table
    assert "toy" not in (project / "results/tiny/papers/uma/table2.md").read_text()
    base, toy = (
        models.load(project / "results/tiny" / path.format(PLACE), 0)
        for path in ("base/{}/plain/0-1.safetensors", "unlearned/{}/class_0/toy/0.safetensors")
    )
    for name, weight in base.named_parameters():
        assert torch.equal(dict(toy.named_parameters())[name], weight * 0.25)


# One job


def test_a_cold_job_gives_what_a_warm_one_gave(project: Path) -> None:
    names = ("unlearned/{}/random_tenth/salun/0.safetensors", "outputs/{}/random_tenth/salun/0.safetensors",
             "rows/{}/random_tenth/salun.jsonl")  # fmt: skip
    files = [project / "results/tiny" / name.format(PLACE) for name in names]
    warm = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    said = snakemake(project, str(files[-1].relative_to(project)), config=("scale=tiny", "warm_start=False"))
    assert "rule unlearn" in said
    assert [file.read_bytes() for file in files] == warm


ALONE = {
    "unlearn": f"unlearned/{PLACE}/class_0/finetune/0.safetensors",
    "choose": f"requests/{PLACE}/random_tenth.retrain/worst_20/0.safetensors",
    "table": "papers/uma/table4.csv",
    "data": "data/digits.safetensors",
    "request": "requests/digits/class_0/0.safetensors",
    "train": f"base/{PLACE}/plain/0-1.safetensors",
    "tune": f"tuned/{PLACE}/class_0/l1_sparse.json",
    "attack": f"attacked/{PLACE}/class_0/finetune/uma/0.safetensors",
    "probe": f"probed/{PLACE}/single_class/retrain/inversion_white_box/0-1.safetensors",
    "prepare": "defended/digits/class_0/denoiser/0.safetensors",
    "predict": f"outputs/{PLACE}/class_0/finetune/0.safetensors",
    "measure": f"rows/{PLACE}/single_class/retrain.jsonl",
    "figure": "papers/leakage/figure5.csv",
}


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.long] * (number > 2)) for number, stage in enumerate(ALONE)]
)
def test_a_script_by_itself_gives_the_bytes_that_the_workflow_gave(project: Path, stage: str) -> None:
    target = project / "results/tiny" / ALONE[stage]
    known = target.read_bytes()
    target.unlink()
    command = [sys.executable, f"workflow/scripts/{stage}.py", str(target.relative_to(project))]
    environment = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == known


def test_a_script_by_itself_says_what_it_wants(project: Path) -> None:
    command = [sys.executable, "workflow/scripts/unlearn.py", "results/tiny/nowhere"]
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "unlearn.py makes one results/tiny/unlearned/{dataset}/{model}/{forget}/{unlearner}/{block}" in done.stderr
    for stage in ("plan", "so_far"):
        command = [sys.executable, f"workflow/scripts/{stage}.py"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
        assert done.returncode == 1 and done.stderr.startswith(f"{stage}.py makes no single result"), done.stderr


def test_methods_with_a_base_training_of_their_own_start_from_it(project: Path) -> None:
    cell = project / CELL.format("base")
    plain, own = (models.load(cell / name, 0) for name in ("plain/0-1.safetensors", "amnesiac/0.safetensors"))
    assert torch.equal(flat(plain), flat(own)), "the log changes no weight"
    record = json.loads((cell / "amnesiac/0.record.json").read_text())
    asked = {name for name in record["inputs"] if "/requests/" in name}
    assert asked == {"results/tiny/requests/digits/class_0/0.safetensors"}, "the requests of the tables that name it"
    vote = models.load(project / CELL.format("unlearned") / "class_0/sisa/0.safetensors", 0)
    assert vote.spec.method == "ensemble" and vote.spec.keywords["members"] == 2
    for name in ("amnesiac", "sisa"):
        attack = project / CELL.format("attacked") / f"class_0/{name}/uma/0.record.json"
        assert f"{CELL.format('base')}/{name}/0.safetensors" in json.loads(attack.read_text())["inputs"], (
            "UMA aims at what this method's own base said"
        )


def test_tuned_values_reach_the_method_and_their_search_is_kept(project: Path) -> None:
    search = json.loads((project / CELL.format("tuned") / "class_0/l1_sparse.json").read_text())
    gaps = {trial["value"]: trial["gap"] for trial in search["trials"]}
    assert set(gaps) == {1e-4, 1e-3} and gaps[search["chosen"]["alpha"]] == min(gaps.values())
    record = json.loads((project / CELL.format("unlearned") / "class_0/l1_sparse/0.record.json").read_text())
    assert record["tuned"] == search["chosen"]
    tuning = json.loads((project / CELL.format("tuned") / "class_0/l1_sparse.record.json").read_text())
    looked = {name for name in tuning["inputs"] if "/data/" not in name}
    assert all(Path(name).name.startswith("100.") for name in looked), "no repetition of the tables is looked at"


# What reruns


def test_words_anywhere_rerun_nothing(project: Path) -> None:
    code = [*(project / "src/palimpsest").rglob("*.py"), *(project / "workflow/scripts").glob("*.py")]
    rules = [project / "Snakefile", *(project / "workflow/rules").glob("*.smk")]
    settings = [*(project / "config").glob("*.yaml"), *(project / "config/scales").glob("*.yaml")]
    settings += (project / "config/papers").glob("*/config.yaml")

    def reworded(text: str) -> str:
        return re.sub(r'^(\s*)"""(?=\w)', r'\1"""Words. ', text, flags=re.MULTILINE) + "\n# A comment.\n"

    undo = [edit(code, reworded), edit([*rules, *settings], lambda text: text + "\n# A comment.\n")]
    try:
        assert sum('"""Words. ' in file.read_text() for file in code) > 100
        said = snakemake(project, "-n")
        assert "Nothing to be done" in said, jobs(said)
    finally:
        for back in undo:
            back()


def test_a_changed_line_in_any_metric_reruns_no_job_before_measuring(project: Path) -> None:
    undo = edit(list((project / "src/palimpsest/metrics").glob("*.py")), lambda text: text + "\nMORE = 1\n")
    try:
        said = snakemake(project, "-n")
    finally:
        undo()
    assert jobs(said)["measure"] > 40
    before = {"data", "request", "choose", "train", "tune", "unlearn", "attack", "probe", "prepare", "predict"}
    found = re.findall(r"^(?:local)?rule (\w+):.*?wildcards: (.*?)$", said, re.MULTILINE | re.DOTALL)
    again = {(rule, names) for rule, names in found if rule in before}
    assert not again


def test_editing_an_unlearner_reruns_it_and_what_depends_on_it(project: Path) -> None:
    undo = edit([project / "src/palimpsest/unlearners/salun.py"], lambda text: text + "\nMORE = 1\n")
    try:
        said = snakemake(project, "-n")
    finally:
        undo()
    counts = jobs(said)
    # Two requests, and as many for the variant that starts from it.
    assert {"unlearn": 4, "predict": 4, "measure": 4}.items() <= counts.items() and counts["attack"] >= 4, counts
    assert not {"data", "request", "choose", "train", "tune", "probe", "prepare"} & counts.keys()
    named = re.findall(r"wildcards:.*unlearner=(\w+)", said)
    assert len(named) == 12 + counts["attack"] and set(named) == {"salun", "salun_as_released"}
    assert "Nothing to be done" in snakemake(project, "-n")


def test_every_number_leads_to_the_data_by_its_records(project: Path) -> None:
    folder = project / CELL.format("rows") / "class_0"

    def record_of(path: Path) -> dict[str, object]:
        return json.loads((path.parent / f"{path.name.partition('.')[0]}.record.json").read_text())

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
    assert f"rows/{PLACE}/class_0/finetune.record.json" in records
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
    model = project / CELL.format("base") / "plain/0-1.safetensors"
    assert str(model.relative_to(project)) in seen
    kept = model.read_bytes()
    model.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    broken = [link.name for link in trace.chain(folder / "finetune.jsonl", project) if not link.whole]
    model.write_bytes(kept)
    assert broken == [str(model.relative_to(project))]
    assert yaml.safe_load((project / "results/tiny/config.yaml").read_text())["attacks"]["uma"]["steps"] == 2


# Kills


def kill_in_the_middle(project: Path, target: str, *arguments: str) -> Callable[[], None]:
    """Start a run to a target and kill it once it has something to resume from; what is returned runs to the end."""
    environment = {**os.environ, "PALIMPSEST_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", target, *arguments]
    command += ["--config", "scale=tiny"]
    file = project / target
    resume = file.with_name(f".{file.stem}.resume")
    running = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 120
    while not any(one.suffix != ".tmp" for one in resume.glob("*")) and time.monotonic() < deadline:  # a whole file
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert resume.exists() and not file.exists(), "killed in the middle"

    def run_to_the_end() -> None:
        subprocess.run(command, cwd=project, check=True, capture_output=True, env=environment)
        assert file.exists() and not resume.exists()

    return run_to_the_end


def test_a_killed_training_resumes_and_ends_with_the_same_weights(project: Path) -> None:
    target = f"{CELL.format('base')}/plain/5.safetensors"
    run_to_the_end = kill_in_the_middle(project, target, *with_recipe(project, epochs=30, lr=0.001))
    run_to_the_end()
    resumed = (project / target).read_bytes()
    log = (project / f"logs/tiny/train/{PLACE}/plain/5.log").read_text()
    assert "resuming" in log and "epoch 1 of 30" not in log
    (project / target).unlink()
    run_to_the_end()
    assert (project / target).read_bytes() == resumed


# Chains


class Steps:
    """What the functions give when they are called directly, on what the workflow left."""

    def __init__(self, project: Path, forget: str, unlearner: str) -> None:
        self.project, self.run = project, Run("digits", "small_cnn_narrow", forget, unlearner)
        self.images = data.read(project / "results/tiny/data/digits.safetensors")
        record = next((project / CELL.format("unlearned") / forget / unlearner).glob("*.record.json"))
        told = json.loads(record.read_text())["params"]
        self.keywords, self.recipe = told["keywords"], train.recipe_from(told["recipe"])

    def path(self, stage: str, block: str = "0") -> Path:
        forget, unlearner = self.run.forget, self.run.unlearner
        return self.project / CELL.format(stage) / forget / unlearner / f"{block}.safetensors"

    def asked(self, *names: str, number: int = 0, block: str = "0") -> list[torch.Tensor]:
        folder = self.project / "results/tiny/requests/digits"
        files = [folder / name / f"{block}.safetensors" for name in names]
        return [requests.read(file, self.images, number).indices for file in files]

    def at(self, number: int = 0, **more: Any) -> unlearners.Step:
        seed = seed_of("unlearn", {**self.run.names, "block": "any"}, number)
        return unlearners.Step(seed=seed, recipe=self.recipe, **more)

    def some(self, chosen: torch.Tensor) -> data.Samples:
        return data.Samples(*(part[chosen] for part in self.images.splits["train"]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Jobs compute with one thread, and sums depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_each_step_of_a_chain_is_what_its_function_gives_on_the_step_before(project: Path) -> None:
    base = project / CELL.format("base") / "sisa/0.safetensors"
    first = Steps(project, "class_0", "sisa")
    labels, (tenth,) = first.images.train_labels, first.asked("random_tenth")
    zero = labels == 0
    asked = torch.zeros_like(zero).index_fill(0, tenth, True)
    made = sisa.unlearn(
        models.load(base, 0), first.some(zero), first.some(~zero),
        first.at(indices=zero.nonzero().flatten(), kept=numbered.read(base.with_name("0.kept.safetensors"), 0)),
    )  # fmt: skip
    assert torch.equal(flat(made.network), flat(models.load(first.path("unlearned"), 0)))

    second = Steps(project, "class_0-random_tenth", "sisa-sisa")
    left = asked & ~zero  # what of the tenth is still there
    indices = left[~zero].nonzero().flatten()
    made = sisa.unlearn(
        made.network, second.some(left), second.some(~zero & ~asked), second.at(indices=indices, kept=made.kept),
        shard_accuracy=True,  # as config.yaml has it
    )  # fmt: skip
    assert 0 < len(indices) < len(tenth)
    assert torch.equal(flat(made.network), flat(models.load(second.path("unlearned"), 0)))
    kept = numbered.read(second.path("unlearned", "0.kept"), 0)
    assert len(kept["assignment/shard"]) == int((~zero & ~asked).sum())
    assert kept.keys() == made.kept.keys() and all(torch.equal(kept[name], made.kept[name]) for name in kept)

    third = Steps(project, "class_0-random_tenth-same", "sisa-sisa-finetune")
    settings = unlearners.gathered(finetune.unlearn, third.keywords)
    tuned = finetune.unlearn(made.network, third.some(zero | asked), third.some(~zero & ~asked), third.at(), **settings)
    assert torch.equal(flat(tuned.network), flat(models.load(third.path("unlearned"), 0)))
    assert not torch.equal(flat(tuned.network), flat(made.network))
    for steps in (second, third):
        rows = (project / "results/tiny" / steps.run.rows).read_text().splitlines()
        assert {json.loads(row)["status"] for row in rows} == {"ok"}


def test_a_defense_goes_on_from_what_the_step_before_kept_and_says_what_it_isolated(project: Path) -> None:
    steps = Steps(project, "noisy_30-same", "sisa-defended")
    kept = numbered.read(steps.path("unlearned", "0.kept"), 0)
    told = {name.removeprefix("told/"): int(tensor) for name, tensor in kept.items() if name.startswith("told/")}
    count = len(steps.images.train_labels)
    assert told["points"] == count and told["asked"] == 30 and 0 < told["isolated"] < count
    assert len(kept["assignment/shard"]) == count - told["isolated"]
    rows = [json.loads(row) for row in (project / "results/tiny" / steps.run.rows).read_text().splitlines()]
    found = {row["metric"]: (row["value"], row["n"]) for row in rows}
    assert found["isolated_share"] == (pytest.approx(100 * told["isolated"] / count, abs=1e-4), count)
    assert found["isolated_recall"] == (pytest.approx(100 * told["isolated_asked"] / 30, abs=1e-4), 30)


def test_a_killed_step_of_a_chain_resumes_and_ends_with_the_same_weights(project: Path) -> None:
    target = f"{CELL.format('unlearned')}/class_0-random_tenth/sisa-sisa/0.safetensors"
    file = project / target
    kept = file.with_name("0.kept.safetensors")
    whole = file.read_bytes(), kept.read_bytes()
    file.unlink()
    kill_in_the_middle(project, target)()
    assert "resuming" in (project / f"logs/tiny/unlearn/{PLACE}/class_0-random_tenth/sisa-sisa/0.log").read_text()
    assert (file.read_bytes(), kept.read_bytes()) == whole
    assert "Nothing to be done" in snakemake(project, "-n")


@pytest.mark.usefixtures("one_thread")
def test_each_repetition_of_a_request_chosen_once_begins_from_base_model_0(project: Path) -> None:
    steps = Steps(project, "three_tenths", "finetune")
    (first,) = steps.asked("three_tenths")
    forgotten = torch.zeros(len(steps.images.train_labels), dtype=torch.bool).index_fill(0, first, True)
    base = models.load(project / CELL.format("base") / "plain/0-1.safetensors", 0)
    towards = models.predict(base, steps.some(forgotten).images).argmax(1)
    settings, made = unlearners.gathered(finetune.unlearn, steps.keywords), []
    for number in range(3):
        assert torch.equal(*(steps.asked("three_tenths", number=one)[0] for one in (0, number)))
        block = "2" if number == 2 else "0-1"
        asked = steps.some(forgotten), steps.some(~forgotten)
        made.append(flat(finetune.unlearn(base, *asked, steps.at(number), **settings).network))
        assert torch.equal(flat(models.load(steps.path("unlearned", block), number)), made[-1])
        attacked = numbered.read(steps.path("attacked", f"uma/{block}"), number)
        assert torch.equal(attacked["clean"], asked[0].images) and torch.equal(attacked["targets"], towards)
    assert not any(torch.equal(made[one], made[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    rows = (project / CELL.format("rows") / "three_tenths/original.jsonl").read_text().splitlines()
    assert {json.loads(row)["repetition"] for row in rows} == {0}


def test_seconds_are_rows_and_their_table_names_the_device(project: Path) -> None:
    steps = Steps(project, "three_tenths", "finetune")
    records = [
        json.loads(steps.path("unlearned", f"{block}.record").with_suffix(".json").read_text())
        for block in ("0-1", "2")
    ]
    rows = [json.loads(row) for row in (project / "results/tiny" / steps.run.rows).read_text().splitlines()]
    found = [row for row in rows if row["metric"] == "unlearning_seconds"]
    assert [round(row["value"], 4) for row in found] == [round(s, 4) for one in records for s in one["method_seconds"]]
    assert all(row["value"] > 0 for row in found)
    table = (project / "results/tiny/papers/planted/methods.md").read_text()
    assert f"Seconds were measured on {found[0]['device']}." in " ".join(table.split())


@pytest.mark.usefixtures("one_thread")
def test_every_repetition_goes_on_from_the_run_nearest_the_mean(project: Path) -> None:
    before, steps = (
        Steps(project, *names)
        for names in (("three_tenths", "finetune"), ("three_tenths-same", "finetune-finetune_nearest"))
    )
    rows = [json.loads(row) for row in (project / "results/tiny" / before.run.rows).read_text().splitlines()]
    values = {row["repetition"]: row["value"] for row in rows if row["metric"] == "test_accuracy_full"}
    mean = sum(values.values()) / 3
    nearest = min(values, key=lambda number: (abs(values[number] - mean), number))
    assert sorted(values) == [0, 1, 2]
    (asked,) = steps.asked("three_tenths")
    forgotten = torch.zeros(len(steps.images.train_labels), dtype=torch.bool).index_fill(0, asked, True)
    source = models.load(before.path("unlearned", "2" if nearest == 2 else "0-1"), nearest)
    settings = unlearners.gathered(finetune.unlearn, steps.keywords)
    for number in range(3):
        made = finetune.unlearn(
            source, steps.some(forgotten), steps.some(~forgotten), steps.at(number),
            **settings,
        )  # fmt: skip
        path = steps.path("unlearned", "2" if number == 2 else "0-1")
        assert torch.equal(flat(models.load(path, number)), flat(made.network))


# Requests with a model at hand


def test_a_request_is_chosen_with_the_model_that_the_chain_has_come_to(project: Path) -> None:
    steps = Steps(project, "random_tenth", "retrain")
    path = project / CELL.format("requests") / "random_tenth.retrain/worst_20/0.safetensors"
    found = requests.read(path, steps.images, 0)
    chosen = requests.Rule("margin", {"count": 20}).choose(
        steps.images, requests.Choice(0, model=models.load(steps.path("unlearned"), 0))
    )
    assert found.indices.tolist() == chosen.indices.tolist()
    of_base = requests.Rule("margin", {"count": 20}).choose(
        steps.images, requests.Choice(0, model=models.load(project / CELL.format("base") / "plain/0-1.safetensors", 0))
    )
    assert found.indices.tolist() != of_base.indices.tolist()


def test_replacements_crafted_on_another_network_run_through_every_stage(project: Path) -> None:
    images = data.read(project / "results/tiny/data/digits.safetensors")
    place = project / CELL.format("requests") / "plain/crafted_10"
    request = requests.read(place / "0.safetensors", images, 0)
    assert request.replacement and request.replacement.images.dtype == torch.float32
    moved = (request.replacement.images - data.pixels(images.train_images[:10])).abs().max()
    assert 0 < moved <= 8 / 255 + 1e-6
    inputs = json.loads((place / "0.record.json").read_text())["inputs"]
    assert "results/tiny/base/digits/small_cnn/plain/0.safetensors" in inputs, "the surrogate"
    model = project / CELL.format("unlearned") / "crafted_10/first_order/0.safetensors"
    base = models.load(project / CELL.format("base") / "plain/0-1.safetensors", 0)
    assert not torch.equal(flat(models.load(model, 0)), flat(base))
    rows = (project / CELL.format("rows") / "crafted_10/first_order.jsonl").read_text().splitlines()
    assert ("forget_accuracy", 10, "ok") in {(row["metric"], row["n"], row["status"]) for row in map(json.loads, rows)}


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
    page = (project / "results/tiny/so_far/papers/uma/index.html").read_text()
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
