"""A wrong configuration is refused before the first job, in one sentence that lists what is valid."""

from __future__ import annotations

import ast
import csv
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from palimpsest.pipeline import cells, configuration, method
from palimpsest.pipeline.address import Addresses
from palimpsest.pipeline.configuration import ConfigError
from palimpsest.seeds import stable_seed

ROOT = Path(__file__).parents[1]
SCALES = sorted(file.stem for file in (ROOT / "config" / "scales").glob("*.yaml"))
SCIENCE = (
    *("data", "models", "requests", "tasks", "unlearners", "attacks", "defenses", "metrics"),
    *("train", "tune", "curvature", "membership", "predict", "measure", "families", "features", "numbered", "ranges"),
    *("medoids", "pretrained", "processor", "seeds"),
)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_resolves_and_gives_every_cell_a_run_or_a_reason(scale: str) -> None:
    plan = cells.Plan(configuration.load(scale=scale))
    found = [cell for table in plan.tables.values() for cell in table]
    assert found
    for cell in found:
        assert (cell.run is None) == bool(cell.missing), cell
        if cell.run:
            recipe = configuration.recipe_of(plan.config, cell.run.dataset, cell.run.model)
            assert {"epochs", "batch_size", "lr"} <= set(recipe)


def test_the_paper_scale_reduces_nothing_and_the_others_say_what_they_reduce() -> None:
    for scale in SCALES:
        plan = cells.Plan(configuration.load(scale=scale))
        reduced = [cell for cell in plan.tables["uma", "table1"] if cell.run and cell.reductions]
        ran = [cell for cell in plan.tables["uma", "table1"] if cell.run]
        assert len(reduced) == (0 if scale == "paper" else len(ran))
    first = cells.Plan(configuration.load(scale="demo")).tables["uma", "table1"][0]
    assert "cifar10 → digits" in map(str, first.reductions)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"repetition": 3}, "has no key 'repetition'; Did you mean 'repetitions'?"),
        ({"unlearners": {"finetune": {"learning_rate": 1}}}, "finetune has no keyword 'learning_rate';"),
        (
            {"unlearners": {"finetune": {"epoch": 1}}},
            "Did you mean 'epochs'? it takes augment, batch_size, betas, clip, epochs, lr, milestones,",
        ),
        ({"unlearners": {"finetun": {}}}, "unlearners.finetun has no method 'finetun'; Did you mean 'finetune'?"),
        ({"unlearners": {"finetune": {"seed": 1}}}, "finetune has no keyword 'seed'"),
        ({"datasets": {"cifar11": {}}}, "has no method 'cifar11'; Did you mean 'cifar10'?"),
        ({"attacks": {"uma": {"stepz": 1}}}, "attacks.uma has no keyword 'stepz'; Did you mean 'steps'?"),
        ({"stand_ins": {"datasets": {"cifar10": "digitz"}}}, "has no datasets 'digitz'; Did you mean 'digits'?"),
        ({"budgets": {"attacks": {"umma": {}}}}, "budgets.attacks has no entry 'umma'; Did you mean 'uma'?"),
        (
            {"budgets": {"probes": {"minst/inversion_black_box": {}}}},
            "budgets.probes has no dataset (<data set>/<attack>) 'minst'; Did you mean 'mnist'?",
        ),
        (
            {"budgets": {"probes": {"mnist/inversion_black_box": {"generation": 1}}}},
            "budgets.probes.mnist/inversion_black_box has no keyword 'generation'; Did you mean 'generations'?",
        ),
        ({"recipes": {"lenet": {"epoch": 1}}}, "recipes.lenet has no keyword 'epoch'; Did you mean 'epochs'?"),
        ({"recipes": {"new": {"epochs": 1}}}, "recipes.new must give at least epochs, batch_size and lr"),
        ({"requests": {"class_0": {"class": [0]}}}, "has no keyword 'class'; Did you mean 'classes'?"),
        ({"repetitions": 0}, "repetitions cannot be 0: how often everything random is repeated, 1 or more"),
        (
            {"requests": {"blended": {"method": "mixed", "hostile": "class_1"}}},
            "requests.blended.hostile cannot be 'class_1'; it takes ",
        ),
        ({"requests": {"blended": {"method": "mixed"}}}, "requests.blended.hostile cannot be ''; it takes "),
        (
            {
                "requests": {
                    "one": {"method": "mixed", "hostile": "class_0"},
                    "two": {"method": "mixed", "hostile": "one"},
                }
            },
            "requests.two.hostile cannot be 'one'; it takes",
        ),
        (
            {"requests": {"blended": {"method": "mixed", "hostile": "class_0", "settings": {"random": 0}}}},
            "requests.blended.settings: random cannot be 0",
        ),
        (
            {"unlearners": {"robust": {"method": "adversarial", "backbone": "finetune"}}},
            "robust.backbone cannot be 'finetune': it must train on the forget set (UMA paper, Section 5.3); it takes",
        ),
        (
            {"unlearners": {"defended": {"method": "medoid_defense", "backbone": "amnesiac"}}},
            "cannot be 'amnesiac': its base training would have to know what is isolated; it takes finetune, f",
        ),
        ({"models": {"../x": {}}}, "small letters, digits and underscores"),
        ({"unlearners": {"x": {"method": "../train"}}}, "has no method '../train'"),
    ],
)
def test_a_misspelt_entry_is_one_sentence_that_lists_the_valid_ones(change: dict[str, Any], sentence: str) -> None:
    config = deepcopy(configuration.load())
    config["budgets"] = {}
    configuration._update(config, change)
    with pytest.raises(ConfigError) as error:
        configuration.resolve(config)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def blended(hostile: str, **values: Any) -> dict[str, Any]:
    """A change by which a mixed request is asked for instead of class 0."""
    entries = {"blended": {"method": "mixed", "hostile": hostile, **values}}
    return {"requests": entries, "stand_ins": {"requests": {"class_0": "blended"}}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attacks": {"uma": {"epsilons": ["-8/255"]}}}, "uma: epsilons cannot be ['-8/255']; it takes a list, each"),
        ({"did_not_forget": {"nearer": "forget_acuracy"}}, "no metric 'forget_acuracy'; Did you mean 'forget_ac"),
        (
            {"unlearners": {"finetune": {"where": {"digit": {}}}}},
            "finetune.where has no data set 'digit'; Did you mean 'digits'",
        ),
        ({"unlearners": {"finetune": {"where": {"digits": {"lr": -1}}}}}, "finetune.where.digits: lr cannot be -1"),
        ({"unlearners": {"finetune": {True: 1}}}, "unlearners.finetune has no keyword 'True'"),
        ({"attacks": {"uma": {"epsilons": "8/255"}}}, "uma: epsilons cannot be '8/255'; it takes a list, each"),
        ({"unlearners": {"salun": {"ratio": 5}}}, "unlearners.salun: ratio cannot be 5; it takes a number in [0, 1]"),
        ({"unlearners": {"salun": {"variant": "best"}}}, "salun: variant cannot be 'best'; it takes corrected, as_rel"),
        ({"unlearners": {"finetune": {"lr": "0.1"}}}, "finetune: lr cannot be '0.1'; it takes a number"),
        ({"unlearners": {"l1_sparse": {"alpha": {"tune": [1, -1]}}}}, "l1_sparse: alpha cannot be -1; it takes"),
        ({"unlearners": {"l1_sparse": {"alpha": {"tune": [1]}}}}, "may be {tune: [two values or more]}"),
        ({"defenses": {"jpeg": {"quality": 101}}}, "defenses.jpeg: quality cannot be 101; it takes a whole number in"),
        ({"recipes": {"small_cnn": {"momentum": 2}}}, "recipes.small_cnn: momentum cannot be 2; it takes a number in"),
        ({"requests": {"random_tenth": {"share": 1.5}}}, "random_tenth: share cannot be 1.5; it takes a number in"),
        ({"requests": {"random_tenth": {"against": "salon"}}}, "against has no unlearners 'salon'; Did you mean 'sal"),
        (
            {"requests": {"new": {"method": "crafted"}}},
            "new.against cannot be None: requests/crafted.py is made against",
        ),
        (
            {"requests": {"new": {"method": "crafted", "against": "finetune"}}},
            "new.against cannot be 'finetune': requests/crafted.py is made against an unlearner that has a function "
            "response(); it takes ",
        ),
        ({"requests": {"random_tenth": {"surrogate": "lenett"}}}, "surrogate has no models 'lenett'; Did you mean 'l"),
        (
            {"requests": {"random_tenth": {"surrogate": ["lenet", "lenett"]}}},
            "surrogate has no models 'lenett'; Did you mean 'l",
        ),
        ({"requests": {"random_tenth": {"surrogate": []}}}, "surrogate has no models '[]'"),
        ({"requests": {"random_tenth": {"against": None}}}, "against has no unlearners 'None'"),
        ({"budgets": {"probes": {"mnist/inversion_black_box": {"generations": -1}}}}, "generations cannot be -1"),
        # Of the data set and the recipe that the value meets.
        ({"requests": {"class_0": {"classes": [77]}}}, "requests.class_0: classes cannot be [77]; it takes"),
        ({"requests": {"class_0": {"classes": None, "random": 11}}}, "requests.class_0: random cannot be 11"),
        (
            blended("class_4", settings={"classes": [77]}),
            "requests.blended: classes cannot be [77]; it takes",
        ),
        (blended("class_4", count=99999), "requests.blended: count cannot be 99999; it takes"),
        ({"requests": {"class_0": {"spares": "backup"}}}, "requests.class_0: spares cannot be 'backup'; "),
        ({"unlearners": {"sisa": {"slices": 20, "also_in": "uma_table1"}}}, "unlearners.sisa: slices cannot be 20"),
    ],
)
def test_a_value_out_of_its_range_is_refused_before_the_first_job(change: dict[str, Any], sentence: str) -> None:
    config = deepcopy(configuration.load())
    config["budgets"] = {}
    configuration._update(config, change)
    with pytest.raises(ConfigError) as error:
        cells.Plan(configuration.resolve(config)).check()
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_classes_and_slices_that_fit_are_not_refused() -> None:
    config = deepcopy(configuration.load())
    config["budgets"] = {}
    configuration._update(config, {"unlearners": {"sisa": {"slices": 19, "also_in": "uma_table1"}}})
    configuration._update(config, {"requests": {"class_0": {"classes": [9]}}})
    cells.Plan(configuration.resolve(config)).check()


def test_an_unknown_scale_lists_the_scales() -> None:
    with pytest.raises(ConfigError, match=r"no scale 'labtop'; Did you mean 'laptop'\? it takes demo, laptop, paper"):
        configuration.load(scale="labtop")


def test_a_variant_starts_from_the_entry_it_names_and_its_budget() -> None:
    config = configuration.load(scale="demo")
    uma = configuration.keywords_of(config, "attacks", "uma")
    wrong = configuration.keywords_of(config, "attacks", "uma_wrong_label")
    assert wrong == {**uma, "epsilons": ["8/255"], "target": "wrong_label"}
    assert uma["steps"] == config["budgets"]["attacks"]["uma"]["steps"]


def test_a_budget_of_one_data_set_is_that_data_sets_alone_and_said() -> None:
    config = configuration.load(scale="laptop")
    at = Addresses(cells.Plan(config))
    names = {"forget": "single_class", "unlearner": "retrain", "attack": "inversion_black_box", "block": "0"}
    asked = {
        dataset: at("probe", dataset=dataset, model=model, **names).asks["keywords"]
        for dataset, model in (("mnist", "lenet"), ("cifar10_10k", "resnet18_imagenet"))
    }
    assert asked["mnist"]["generations"] == config["attacks"]["inversion_black_box"]["generations"]
    assert asked["cifar10_10k"] == asked["mnist"] | {"generations": 50} != asked["mnist"]
    said = "inversion_black_box: generations 50 on cifar10_10k"
    cut = {
        cell.dataset: said in map(str, cell.reductions)
        for cell in cells.Plan(config).figures["leakage", "figure14"]
        if cell.runs and cell.forget == "single_class"
    }
    assert cut == {"mnist": False, "fashion_mnist": False, "cifar10": True, "mnist+fashion_mnist+svhn+cifar10": True}


def test_a_line_of_means_is_over_the_same_data_sets_at_every_point() -> None:
    def points(scale: str) -> list[set[str]]:
        figure = cells.Plan(configuration.load(scale=scale)).figures["leakage", "figure16"]
        return [{run.dataset for run in cell.runs} for cell in figure]

    assert points("laptop") == [{"mnist"}] * 63
    assert points("paper") == [{"mnist", "fashion_mnist", "svhn", "cifar10"}] * 63
    (reductions,) = {
        cell.reductions
        for cell in cells.Plan(configuration.load(scale="laptop")).figures["leakage", "figure16"]
        if cell.attack == "inversion_white_box"
    }
    assert [*map(str, reductions)] == ["without fashion_mnist", "without svhn", "without cifar10"]


def test_also_in_invites_a_method_into_a_table_without_touching_it() -> None:
    config = configuration.load(scale="demo")
    config["unlearners"]["guest"] = {"method": "finetune", "also_in": "uma_table1"}
    before = cells.Plan(configuration.load(scale="demo"))
    after = cells.Plan(configuration.resolve(config))
    guests = [cell for cell in after.tables["uma", "table1"] if cell.unlearner == "guest"]
    hosts = [cell for cell in before.tables["uma", "table1"] if cell.unlearner == "retrain" and not cell.control]
    assert len(guests) == len(hosts) == 21
    assert all(cell.published is None and cell.run for cell in guests)
    assert after.tables["uma", "table2"] == before.tables["uma", "table2"]


def test_method_names_in_tables_are_unbuilt_or_files() -> None:
    for file in (ROOT / "config" / "papers").glob("*/table*.csv"):
        with file.open() as handle:
            for row in csv.DictReader(handle):
                assert row["published"] or row["note"], f"{file.name}: {row} has neither a number nor a reason"


def test_keywords_are_read_without_importing() -> None:
    finetune = method.keywords("unlearners", "finetune")
    assert finetune.keys() >= {"epochs", "lr", "batch_size"}, "the fields of its training"
    assert not finetune.keys() & {"model", "forget", "retain", "at", "training"}, "not what the workflow gives"
    assert method.keywords("models", "resnet").keys() == {"depth", "stem", "width", "resize"}
    assert method.keywords("unlearners", "salun")["ratio"] == "Annotated[float, '[0, 1]']"
    assert "retrain" in method.files("unlearners") and "../train" not in method.files("unlearners")
    assert "_heads" not in method.files("attacks"), "a helper is no method"
    assert method.stage("attacks", "uma") == "on_images" and method.stage("attacks", "label_leakage") == "on_labels"


def test_the_hash_of_a_method_covers_what_it_imports_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    files = method._closure([method.PACKAGE / "unlearners" / "finetune.py"])
    names = {str(file.relative_to(method.PACKAGE)) for file in files}
    assert names >= {"unlearners/finetune.py", "train.py", "models/__init__.py", "seeds.py"}
    assert not names & {"unlearners/retrain.py", "attacks/uma.py", "pipeline/job.py", "models/lenet.py"}


@pytest.mark.parametrize(
    "modules", ["palimpsest.pipeline.cells", "palimpsest.pipeline.job", "palimpsest.pipeline.provenance"]
)
def test_what_the_snakefile_imports_loads_no_torch(modules: str) -> None:
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "src")}).returncode == 0


def test_the_snakefile_loads_no_torch(tmp_path: Path) -> None:
    probe = tmp_path / "sitecustomize.py"
    probe.write_text(
        "import atexit, os, sys\n"
        "atexit.register(lambda: open(os.environ['PROBE'], 'a').write(str('torch' in sys.modules) + '\\n'))\n"
    )
    env = {
        "PYTHONPATH": str(tmp_path),
        "PROBE": str(tmp_path / "seen"),
        "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "snakemake", "-n", "-q", "--nolock", "--config", "scale=paper"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    seen = (tmp_path / "seen").read_text().split()
    assert seen and set(seen) == {"False"}


def test_science_imports_neither_pipeline_nor_report() -> None:
    package = ROOT / "src" / "palimpsest"
    files = [
        file
        for name in SCIENCE
        for file in ((package / name).rglob("*.py") if (package / name).is_dir() else [package / f"{name}.py"])
    ]
    assert {file.name for file in package.glob("*.py")} - {"__init__.py"} == {
        file.name for file in files if file.parent == package
    }, "every module is science, or of pipeline or report"
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            imported = getattr(node, "module", None) or ""
            assert not imported.startswith(("palimpsest.pipeline", "palimpsest.report")), file


def test_a_seed_depends_on_what_it_names_alone() -> None:
    assert stable_seed("a", {"b": 1}, 0) == stable_seed("a", {"b": 1}, 0) != stable_seed("a", {"b": 1}, 1)
    program = "from palimpsest.seeds import stable_seed; print(stable_seed('cell', 2))"
    env = {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "5"}
    elsewhere = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert int(elsewhere.stdout) == stable_seed("cell", 2)


def test_the_repository_holds_no_links_and_no_machine_paths() -> None:
    """A link to a folder of somebody's machine breaks every other checkout, and can replace the folder in his own."""
    said = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = [line.split("\t", 1) for line in said.splitlines()]
    assert len(kept) > 100
    assert [name for mode, name in kept if mode.startswith("120000")] == []
    records = [name for _, name in kept if name.endswith(".record.json")]
    assert [name for name in records if re.search(r'"/(home|root|work|tmp)/', (ROOT / name).read_text())] == []
