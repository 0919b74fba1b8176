"""Addresses: every path once, every reason upstream in a job's key and nothing else, chains and blocks as they are."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.pipeline import configuration, method, papers
from palimpsest.pipeline.address import Address, Addresses, File, seed_of
from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.pipeline.configuration import ROOT, ConfigError
from palimpsest.pipeline.paths import outputs_of
from palimpsest.seeds import numbers

PACKAGE = method.PACKAGE
Job = tuple[str, tuple[tuple[str, str], ...]]
BASE = {"dataset": "digits", "model": "small_cnn_narrow"}


def every(at: Addresses) -> dict[Job, Address]:
    """All jobs that the pages need."""
    found: dict[Job, Address] = {}
    queue = [at("front")]
    while queue:
        one = queue.pop()
        if name_of(one) not in found:
            found[name_of(one)] = one
            queue += above(one)
    return found


def name_of(one: Address) -> Job:
    return one.stage, tuple(one.names.items())


def above(one: Address) -> list[Address]:
    """The jobs that one reads from."""
    parts = [part for found in one.above.values() for part in ([found] if isinstance(found, File | str) else found)]
    return [part.of for part in parts if isinstance(part, File)]


def downstream(jobs: dict[Job, Address], start: set[Job]) -> set[Job]:
    """`start` and all that is made from it."""
    found = set(start)
    while more := {job for job, one in jobs.items() if any(name_of(up) in found for up in above(one))} - found:
        found |= more
    return found


def planned(**changes: Any) -> Addresses:
    """The addresses of the demo with these values changed."""
    config = configuration.load(scale="demo")
    configuration._update(config, changes)
    return Addresses(Plan(config))


@pytest.fixture(scope="module")
def demo() -> dict[Job, Address]:
    return every(planned())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the papers' folders, in the place of theirs."""
    copy = Path(shutil.copytree(ROOT / "config", tmp_path / "config")) / "papers"
    monkeypatch.setattr(papers, "PAPERS", copy)
    return copy


def ask(folder: Path, *rows: str) -> None:
    """Add lines `forget,unlearner` to a table of the UMA paper."""
    with (folder / "uma/table4.csv").open("a") as file:
        for row in rows:
            file.write(f"cifar10,resnet50,{row},none,,forget_accuracy,,,,planted\n")


ONCE = {
    "tenth": {"method": "samples", "share": 0.1, "once": True, "repetitions": 5},
    "worst": {"method": "margin", "count": 20, "once": True, "repetitions": 5},
}


def add_requests(folder: Path, entries: dict[str, Any]) -> None:
    """Put requests into the UMA paper's part of the configuration."""
    file = folder / "uma/config.yaml"
    text = "".join(f"  {name}: {json.dumps(entry)}\n" for name, entry in entries.items())
    file.write_text(file.read_text().replace("requests:\n", f"requests:\n{text}", 1))


def test_every_job_has_paths_of_its_own_that_one_rule_alone_can_make(demo: dict[Job, Address]) -> None:
    paths = [path for one in demo.values() for path in one.outputs.values()]
    assert len(paths) > 1000 and len(set(paths)) == len(paths)
    named = {"block": "[0-9]+(-[0-9]+)?", "chain": "[a-z0-9_.-]+", "forget": "[a-z0-9_-]+", "unlearner": "[a-z0-9_-]+"}
    items = planned().plan
    named |= {
        "table": "|".join(name for _, name in items.tables),
        "figure": "|".join(name for _, name in items.figures),
    }
    shapes = {}
    for stage in {stage for stage, _ in demo} | {"choose"}:
        for name, pattern in outputs_of("results/demo", stage).items():
            text = re.sub(r"\\{(\w+)\\}", lambda found: f"(?:{named.get(found[1], '[a-z0-9_]+')})", re.escape(pattern))
            shapes[stage, name] = re.compile(text)
    for one in demo.values():
        for name, path in one.outputs.items():
            assert [key for key, shape in shapes.items() if shape.fullmatch(path)] == [(one.stage, name)], path


def unlearns(*names: str) -> Callable[[Address], bool]:
    return lambda one: one.stage in ("unlearn", "tune") and one.names["unlearner"] in names


def of_method(stage: str, key: str, file: str) -> Callable[[Address], bool]:
    """Jobs of a stage whose method is a variant of a file."""
    config = configuration.load(scale="demo")
    names = [name for name in config[key] if configuration.method_of(config, key, name) == file]
    return lambda one: one.stage == stage and one.names[key.removesuffix("s")] in names


@pytest.mark.parametrize(
    ("change", "direct"),
    [
        (
            {"recipes": {"small_cnn_narrow": {"lr": 1e-3}}},
            lambda one: one.stage in ("train", "unlearn", "tune") and one.names["model"] == "small_cnn_narrow",
        ),
        ({"models": {"small_cnn_narrow": {"hidden": 32}}},
            lambda one: one.stage == "train" and one.names["model"] == "small_cnn_narrow"),
        (
            {"datasets": {"digit_pairs": {"subset": {"train_per_class": 10}}}},
            lambda one: one.stage == "data" and one.names["dataset"] == "digit_pairs",
        ),
        (
            {"datasets": {"digits": {"hold_back": {"backup": 0.2}}}},
            lambda one: one.stage == "data" and one.names["dataset"] == "digits",
        ),
        (
            {"requests": {"class_0": {"classes": [1]}}},
            lambda one: one.stage == "request" and one.names["request"] == "class_0",
        ),
        # A variant starts from the entry that it names.
        ({"unlearners": {"salun": {"ratio": 0.4}}}, unlearns("salun", "salun_as_released")),
        ({"unlearners": {"salun_as_released": {"ratio": 0.4}}}, unlearns("salun_as_released")),
        ({"unlearners": {"l1_sparse": {"alpha": {"tune": [1e-4, 2e-4]}}}}, lambda one: one.stage == "tune"
            and one.names["unlearner"] == "l1_sparse"),
        ({"unlearners": {"random_label": {"lr": {"tune": [0.02, 0.2]}}}},
            lambda one: one.stage == "tune" and one.names["unlearner"] in ("random_label", "random_label_incorrect")),
        ({"unlearners": {"random_label": {"momentum": 0.8}}}, unlearns(
            "random_label", "random_label_incorrect", "random_label_published_rate", "random_label_half_rate",
            "random_label_adam", "adversarial", "adversarial_half_rate")),
        ({"unlearners": {"random_label_half_rate": {"lr": 0.02}}}, unlearns("random_label_half_rate")),
        ({"attacks": {"uma": {"start": "image"}}}, of_method("attack", "attacks", "uma")),
        ({"attacks": {"uma_unseen": {"steps": 3}}},
            lambda one: one.stage == "attack" and one.names["attack"] == "uma_unseen"),
        ({"attacks": {"inversion_white_box": {"space": "pixels"}}},
            of_method("probe", "attacks", "inversion_white_box")),
        ({"attacks": {"label_leakage": {"shadow_heads": 2}}}, lambda one: "label_leakage" in one.asks.get("judges", {})
            or any(name.startswith("label_leakage") for name in one.asks.get("judges", {}))),
        ({"budgets": {"probes": {"digits/inversion_black_box": {"generations": 2}}}}, lambda one: one.stage == "probe"
            and one.names["attack"] == "inversion_black_box"),
        ({"defenses": {"jpeg": {"quality": 30}}}, lambda one: "jpeg" in one.asks.get("defenses", {})),
        ({"defenses": {"denoiser": {"steps": 200}}}, lambda one: one.stage == "prepare"),
        ({"data_root": "elsewhere"}, lambda one: one.stage == "data"),
        ({"threads": 2, "mem_mb": 5, "warm_start": False, "plan": {"kept_models": 7}}, lambda one: False),
    ],
)  # fmt: skip
def test_a_changed_value_changes_the_keys_of_what_it_reaches_and_no_other(
    demo: dict[Job, Address], change: dict[str, Any], direct: Callable[[Address], bool]
) -> None:
    after = every(planned(**change))
    assert after.keys() == demo.keys()
    reached = {job for job, one in demo.items() if direct(one)}
    expected = downstream(demo, reached)
    changed = {job for job in demo if demo[job].key != after[job].key}
    # A budget that is cut stands in the cells, too.
    said = {"table", "figure", "page", "front"} if "budgets" in change else set()
    assert {job for job in changed if job[0] not in said} == {job for job in expected if job[0] not in said}
    assert changed >= expected
    assert bool(reached) == ("threads" not in change)


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a file of the package execute something else."""

    def edit(name: str) -> None:
        changed, plain = (PACKAGE / name).read_text(), method.executed
        monkeypatch.setattr(method, "executed", lambda text: plain(text) + "pass" * (text == changed))
        method.code.cache_clear()

    yield edit
    monkeypatch.undo()
    method.code.cache_clear()


FAMILIES = sorted(file.stem for file in (PACKAGE / "metrics").glob("[!_]*.py"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_metrics_code_changes_no_key_but_of_what_measures_it(
    demo: dict[Job, Address], edited: Callable[[str], None], family: str
) -> None:
    before = {job: one.key for job, one in demo.items()}
    edited(f"metrics/{family}.py")
    after = every(planned())
    changed = {job for job in before if before[job] != after[job].key}
    assert {stage for stage, _ in changed} <= {"measure", "table", "figure", "page", "front"}
    measured = {job for job, one in demo.items() if job[0] == "measure" and family in one.asks["families"]}
    assert measured <= changed
    assert changed == downstream(demo, {job for job in changed if job[0] == "measure"})


@pytest.mark.parametrize(
    ("file", "direct"),
    [
        ("unlearners/salun.py", unlearns("salun", "salun_as_released", "salun_images")),
        (
            "unlearners/retrain.py",
            unlearns("retrain", *(f"first_order_2e2-{one}_retrain" for one in ("medoids", "dropped_random"))),
        ),
        ("attacks/on_images/uma.py", of_method("attack", "attacks", "uma")),
        ("attacks/on_labels/_heads.py", None),
        ("defenses/jpeg.py", lambda one: "jpeg" in one.asks.get("defenses", {})),
        ("requests/classes.py", of_method("request", "requests", "classes")),
        ("data/digit_pairs.py", of_method("data", "datasets", "digit_pairs")),
        ("models/small_cnn.py", lambda one: one.stage == "train" and one.names["model"] == "small_cnn_narrow"),
        ("tune.py", lambda one: one.stage == "tune"),
        ("pipeline/job.py", lambda one: False),
    ],
)
def test_a_methods_code_changes_the_keys_of_its_jobs_and_what_is_downstream(
    demo: dict[Job, Address],
    edited: Callable[[str], None],
    file: str,
    direct: Callable[[Address], bool] | None,
) -> None:
    before = {job: one.key for job, one in demo.items()}
    edited(file)
    after = every(planned())
    changed = {job for job in before if before[job] != after[job].key}
    if direct is None:  # its helpers reach every attack on labels by weights, and what judges it
        assert changed and {stage for stage, _ in changed} <= {"probe", "measure", "table", "figure", "page", "front"}
    else:
        adversarial = {job for job, one in demo.items() if one.asks.get("keywords", {}).get("inner") == "uma"}
        reached = {job for job, one in demo.items() if direct(one)}
        assert changed - downstream(demo, adversarial) == downstream(demo, reached) - downstream(demo, adversarial)


def test_a_key_covers_every_module_of_the_science_that_its_script_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own code or by that of a job upstream, but for what a job does not ask: a `plain` base no unlearner."""
    plain, of_hash = method.code, dict[str, set[Path]]()

    def code(*modules: str) -> str:
        files = [method.PACKAGE / f"{name.replace('.', '/')}.py" for name in modules if not name.endswith(".py")]
        return of_hash.setdefault(found := plain(*modules), method._closure(files)) and found

    monkeypatch.setattr(method, "code", code)
    jobs, covered = every(planned()), dict[Job, set[Path]]()

    def covers(one: Address) -> set[Path]:
        if name_of(one) not in covered:
            covered[name_of(one)] = of_hash[one.code].union(*map(covers, above(one)))
        return covered[name_of(one)]

    for (stage, _), one in jobs.items():
        imported = method._imports(ROOT / "workflow/scripts" / f"{stage}.py")
        science = {file for file in imported if "pipeline" not in file.relative_to(PACKAGE).parts}
        if one.names.get("base") == "plain":
            science -= {PACKAGE / "unlearners/__init__.py", PACKAGE / "requests/__init__.py"}
        if stage == "choose" and "against" not in one.asks:  # no unlearner is asked
            science -= {PACKAGE / "unlearners/__init__.py"}
        if stage == "train" and "requests" not in one.above:  # this base need not know them
            science -= {PACKAGE / "requests/__init__.py"}
        assert not science - covers(one), f"{name_of(one)} does not depend on {science - covers(one)}"


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "workflow/scripts").glob("*.py")])


def test_no_comment_and_no_docstring_executes() -> None:
    for file in sources():
        text = file.read_text()
        tree = ast.parse(text)
        told = 0
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Other words."))
                told += 1
        assert told, f"{file} has no docstring"
        assert method.executed(ast.unparse(tree)) == method.executed(text) == method.executed(f"# a\n{text}# b\n"), file
        assert method.executed(text + "\nmore = 1\n") != method.executed(text)


def test_a_published_number_changes_its_table_and_its_page_alone(folder: Path) -> None:
    before = every(planned())
    file = folder / "uma/table4.csv"
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[0]["published"] = "12.34"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    after = every(planned())
    changed = {job for job in before if before[job].key != after[job].key}
    assert changed == {("table", (("paper", "uma"), ("table", "table4"))), ("page", (("paper", "uma"),)), ("front", ())}


def test_a_row_more_adds_its_jobs_and_changes_what_measures_it_alone(folder: Path) -> None:
    before = every(planned())
    ask(folder, "class_0,negative_gradient")
    after = every(planned())
    new = after.keys() - before.keys()
    assert {stage for stage, _ in new} == {"unlearn", "predict", "measure"}
    changed = {job for job in before if before[job].key != after[job].key}
    assert changed == {("table", (("paper", "uma"), ("table", "table4"))), ("page", (("paper", "uma"),)), ("front", ())}


def test_seconds_make_rows_depend_on_the_records_of_their_own_jobs_and_change_nothing_else(folder: Path) -> None:
    ask(folder, "class_0,finetune")
    before = every(planned())
    with (folder / "uma/table4.csv").open("a") as file:
        file.write("cifar10,resnet50,class_0,finetune,none,,unlearning_seconds,,,,planted\n")
    after = every(planned())
    changed = {job for job in before if before[job].key != after[job].key}
    (rows,) = [job for job in changed if job[0] == "measure"]
    own = {("table", (("paper", "uma"), ("table", "table4")))}
    assert changed == downstream(before, {rows}) | own and after.keys() == before.keys()
    inputs, at = after[rows].inputs, planned()
    run = Run(**BASE, forget="class_0", unlearner="finetune")
    assert inputs["unlearned"] == [at.model(run, "0-1").outputs["record"]]
    assert inputs["trained"] == [at.base(run, "0-1").outputs["record"]] and after[rows].asks["bases"] == [0, 1]
    assert "trained" not in before[rows].inputs


# One notion of repetition


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_blocks_cover_each_repetition_once_and_bases_are_shared(folder: Path, size: int) -> None:
    ask(folder, "single_class,retrain", "single_class,finetune")
    at = planned(block={"other": size})
    jobs = every(at)
    for run in at.plan.asked:
        covered = [number for block in at.plan.blocks(run) for number in numbers(block)]
        assert covered == list(range(at.plan.repetitions(run)))
    plain = [
        one for one in jobs.values() if one.stage == "train" and one.names.items() >= {**BASE, "base": "plain"}.items()
    ]
    trained = sorted(number for one in plain for number in numbers(one.names["block"]))
    tuned = numbers(at.plan.held_out) * any(one.stage == "tune" for one in jobs.values())
    assert trained == [*range(3), *tuned], "each base model once, whoever shares it"
    for one in jobs.values():  # every file that a job reads holds the repetitions that the job needs of it
        for name, found in one.above.items() if "block" in one.names else ():
            for place, part in enumerate([found] if isinstance(found, File | str) else found):
                needed = numbers(one.names["block"])
                if one.stage == "attack" and name == "original":
                    needed = [one.asks["aims"][place]]  # perhaps another repetition's
                elif (name in ("before", "kept") and one.asks.get("first")) or (
                    name == "original" and "bases" in one.asks
                ):
                    needed = one.asks["bases"]  # perhaps the one that all repetitions begin from
                elif name in ("before", "kept") and one.asks.get("from_nearest"):
                    needed = numbers(one.asks["blocks"][place])
                elif one.stage == "choose" and name in ("model", "surrogate") and one.asks["first"]:
                    needed = one.asks["bases"]
                if name == "observer" or (isinstance(part, File) and part.of.asks.get("once")):
                    needed = [0]  # it is every repetition's
                if isinstance(part, File) and "block" in part.of.names:
                    assert {*needed} <= {*numbers(part.of.names["block"])}, (name_of(one), part.path)


def test_two_rows_of_one_request_share_one_base_job_and_fewer_repetitions_read_from_it(folder: Path) -> None:
    ask(folder, "single_class,retrain", "single_class,finetune")
    at = planned()
    few = Run(**BASE, forget="class_0", unlearner="retrain")
    many = [Run(**BASE, forget="single_class", unlearner=name) for name in ("retrain", "finetune")]
    assert [at.plan.blocks(run) for run in (few, *many)] == [["0-1"], ["0-2"], ["0-2"]]
    bases = {at.base(run, at.plan.blocks(run)[0]).outputs["model"] for run in (few, *many)}
    assert bases == {"results/demo/base/digits/small_cnn_narrow/plain/0-2.safetensors"}


# Chains


def test_a_chain_is_its_steps_each_from_the_run_before(folder: Path) -> None:
    ask(folder, "class_0-random_tenth-same,sisa-sisa-finetune")
    at = planned()
    run = Run(**BASE, forget="class_0-random_tenth-same", unlearner="sisa-sisa-finetune")
    assert run in at.plan.asked
    assert run.before == Run(**BASE, forget="class_0-random_tenth", unlearner="sisa-sisa")
    assert run.before.before == Run(**BASE, forget="class_0", unlearner="sisa") and run.before.before.before is None
    steps = [at.model(one, "0-1") for one in (run.before.before, run.before, run)]
    assert [one.inputs["before"] for one in steps] == [
        ["results/demo/base/digits/small_cnn_narrow/sisa/0-1.safetensors"],
        ["results/demo/unlearned/digits/small_cnn_narrow/class_0/sisa/0-1.safetensors"],
        ["results/demo/unlearned/digits/small_cnn_narrow/class_0-random_tenth/sisa-sisa/0-1.safetensors"],
    ]
    assert [one.inputs["kept"][0].replace(".kept", "") for one in steps] == [one.inputs["before"][0] for one in steps]
    first, second = (f"results/demo/requests/digits/{name}/0-1.safetensors" for name in ("class_0", "random_tenth"))
    assert [one.inputs["requests"] for one in steps] == [[first], [first, second], [first, second]]
    assert [one.asks["same"] for one in steps] == [False, False, True]
    assert [one.asks["method"] for one in steps] == ["sisa", "sisa", "finetune"]
    seeds = {one.seed(0) for one in steps}
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("class_0-random_tenth,sisa", "name 2 requests and 1 unlearners"),
        ("class_0-random_tnth,sisa-sisa", "has no requests 'random_tnth'"),
        ("same,finetune", "has no requests 'same'"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(folder: Path, row: str, says: str) -> None:
    ask(folder, row)
    with pytest.raises(ConfigError, match=says):
        every(planned())


def test_a_chain_whose_unlearner_is_missing_is_not_built_yet(folder: Path) -> None:
    ask(folder, "class_0-random_tenth,sisa-nobody")
    (cell,) = [one for one in planned().plan.items["uma", "table4"] if "nobody" in one.unlearner]
    assert str(cell.missing) == "not built yet: unlearner nobody"


def test_a_row_whose_unlearners_end_before_the_last_steps_is_the_model_before_them(folder: Path) -> None:
    ask(folder, "class_0-same,retrain", "class_0-same,original", "class_0-same,retrain-finetune")
    found = [cell.run for cell in planned().plan.items["uma", "table4"] if cell.forget == "class_0-same"]
    assert [(run.forget, run.unlearner) for run in found if run] == [
        ("class_0", "retrain"), ("class_0", "original"), ("class_0-same", "retrain-finetune"),
    ]  # fmt: skip


def test_a_value_of_one_data_set_is_its_own_and_needs_a_data_set_that_is_there(folder: Path) -> None:
    ask(folder, "class_0,l1_sparse")
    own = {"l1_sparse": {"alpha": 1.0e-5, "where": {"digits": {"alpha": 0.5}, "mnist": {"alpha": 0.25}}}}
    at = planned(unlearners=own)
    job = at("unlearn", **BASE, forget="class_0", unlearner="l1_sparse", block="0-1")
    other = at("unlearn", **{**BASE, "dataset": "svhn"}, forget="class_0", unlearner="l1_sparse", block="0-1")
    assert (job.asks["keywords"]["alpha"], other.asks["keywords"]["alpha"]) == (0.5, 1.0e-5)


def test_each_request_of_a_chain_has_its_stand_in(folder: Path) -> None:
    ask(folder, "class_0-random_5000,sisa-sisa")
    assert Run(**BASE, forget="class_0-random_tenth", unlearner="sisa-sisa") in planned().plan.asked


def test_a_request_chosen_with_a_model_at_hand_lies_under_the_chain_that_it_was_chosen_with() -> None:
    at = planned(requests={"worst": {"method": "margin", "count": 20}})
    later = Run(**BASE, forget="class_0-worst", unlearner="retrain-finetune")
    first = Run(**BASE, forget="worst", unlearner="finetune")
    own = Run(**BASE, forget="worst", unlearner="sisa")
    found = [at.requests(run, "0-1")[-1] for run in (later, first, own)]
    results = "results/demo/requests/digits/small_cnn_narrow"
    assert [file.path for file in found] == [
        f"{results}/class_0.retrain/worst/0-1.safetensors",
        f"{results}/plain/worst/0-1.safetensors",
        f"{results}/sisa/worst/0-1.safetensors",
    ]
    assert found[0].of.inputs["model"] == at.model(later.before, "0-1").outputs["model"]
    assert [file.of.stage for file in at.requests(later, "0-1")] == ["request", "choose"]
    assert found[1].of.seed(0) != at("request", dataset="digits", request="class_0", block="0-1").seed(0)


def test_a_request_that_takes_another_in_depends_on_its_code_and_needs_what_it_needs(
    edited: Callable[[str], None],
) -> None:
    entries: dict[str, Any] = {
        "worst": {"method": "margin", "count": 20},
        "some": {"method": "samples", "count": 20},
        "aimed": {"method": "shard", "count": 20},
    }
    entries |= {f"with_{name}": {"method": "mixed", "hostile": name, "count": 50} for name in entries}

    def asked(name: str) -> Address:
        (found,) = planned(requests=entries).requests(Run(**BASE, forget=name, unlearner="retrain"), "0-1")
        return found.of

    before = {name: asked(name) for name in entries}
    assert {name: one.stage for name, one in before.items() if "with" in name} == {
        "with_worst": "choose",
        "with_some": "request",
        "with_aimed": "choose",
    }
    assert "kept" in before["with_aimed"].inputs and "kept" not in before["with_worst"].inputs
    keywords = {"hostile": "margin", "settings": {"count": 20}, "count": 50}
    assert before["with_worst"].asks.items() >= {"method": "mixed", "keywords": keywords}.items()
    edited("requests/margin.py")
    changed = {name for name in before if asked(name).key != before[name].key}
    assert changed == {"worst", "with_worst"}


def test_a_defense_depends_on_what_it_wraps_and_says_of_itself_what_some_cell_needs(
    edited: Callable[[str], None],
) -> None:
    names = {**BASE, "forget": "class_0-same", "block": "0-1"}
    entries = {"defended": {"method": "medoid_defense", "backbone": "sisa_3x5", "share": 0.2}}

    def step() -> Address:
        return planned(unlearners=entries)("unlearn", **names, unlearner="sisa_3x5-defended")

    before = step()
    assert (
        before.asks["keywords"].items()
        >= {"backbone": "sisa", "settings": {"shard_accuracy": False}, "share": 0.2}.items()
    )
    (kept,) = before.inputs["kept"]
    assert "/sisa_3x5/" in kept and "original" not in before.inputs
    edited("unlearners/sisa.py")
    assert step().key != before.key
    entries["defended"]["backbone"] = "heal"
    healed = planned(unlearners={**entries, "heal": {}})("unlearn", **names, unlearner="retrain-defended")
    assert "original" in healed.inputs, "what the one that is wrapped needs"


def test_a_file_that_somebody_brings_is_an_input_and_its_content_is_part_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "request.txt"
    entries = {"listed": {"method": "file", "path": str(path)}, "with_it": {"method": "mixed", "hostile": "listed"}}

    def asked(name: str) -> Address:
        (found,) = planned(requests=entries).requests(Run(**BASE, forget=name, unlearner="retrain"), "0-1")
        return found.of

    with pytest.raises(ConfigError, match=r"requests.listed cannot read '.*request.txt' \(No such file"):
        asked("listed")
    path.write_text("1\n")
    before = [asked(name) for name in entries]
    assert [(one.stage, one.inputs["files"]) for one in before] == [("request", [str(path)])] * 2
    path.write_text("2\n")
    assert not {one.key for one in before} & {asked(name).key for name in entries}
    path.write_text("1\n")
    assert [asked(name).key for name in entries] == [one.key for one in before]
    assert "files" not in planned()("request", dataset="digits", request="class_0", block="0-1").inputs


def test_what_a_file_says_that_it_needs_it_is_given_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = method.needs
    more = {"margin": ("model", "kept"), "finetune": ("original",)}
    monkeypatch.setattr(method, "needs", lambda kind, name: more.get(name) or plain(kind, name))
    at = planned(requests={"worst": {"method": "margin", "count": 20}})
    run = Run(**BASE, forget="class_0-worst", unlearner="retrain-finetune")
    place = "results/demo/{}/digits/small_cnn_narrow"
    base = at.base(run, "0-1").outputs["model"]
    assert at.model(run, "0-1").inputs["original"] == base, "the chain's base model"
    assert "original" in at("tune", **run.names).inputs and "original" not in at.model(run.before, "0-1").inputs
    chosen = at.requests(run, "0-1")[-1].of.inputs
    assert chosen["kept"] == f"{place.format('unlearned')}/class_0/retrain/0-1.kept.safetensors"


def test_a_value_may_be_searched_on_a_smaller_data_set() -> None:
    smaller = {"digit_pairs": {"dataset": "digits", "requests": {"classes_5_16_25_34_78": "class_0"}}}
    at = planned(budgets={"tuned_on": smaller})
    names = {"dataset": "digit_pairs", "model": "small_cnn_narrow", "unlearner": "salun"}
    made = at("unlearn", **names, forget="classes_5_16_25_34_78", block="0-1")
    assert made.inputs["tuned"] == "results/demo/tuned/digits/small_cnn_narrow/class_0/salun.json"
    assert (
        at("unlearn", **names, forget="random_tenth", block="0-1").inputs["tuned"].endswith("random_tenth/salun.json")
    )
    cells = [cell for cell in at.plan.tables["uma", "table1"] if cell.unlearner == "salun" and cell.runs]
    assert {cell.run.dataset for cell in cells if "tuned on" in str(cell.reductions)} == {"digit_pairs"}


def test_a_table_reads_what_its_marks_compare_with() -> None:
    at = planned()
    rows = at("table", paper="uma", table="table4").inputs["rows"]
    place = "results/demo/rows/digits/small_cnn_narrow/class_0"
    assert {f"{place}/{name}.jsonl" for name in ("original", "retrain", "adversarial")} <= set(rows)
    changed = planned(did_not_forget={"share": 0.5, "gap": 1, "nearer": "forget_accuracy"})
    assert changed("table", paper="uma", table="table4").key != at("table", paper="uma", table="table4").key


# Seeds


def test_what_is_compared_sees_the_same_draws() -> None:
    at = planned()
    request = {"dataset": "digits", "forget": "class_0"}

    def seeds(stage: str, **names: str) -> set[int]:
        return {seed_of(stage, {**request, **names}, number) for number in range(3)}

    runs = [{"model": model, "unlearner": name} for model in ("lenet", "resnet18") for name in ("retrain", "salun")]
    for stage in ("unlearn", "attack", "probe", "measure"):
        assert len(set.union(*(seeds(stage, **run, attack=one) for run in runs for one in ("uma", "other")))) == 3
    assert seeds("tune", **runs[0]) == seeds("unlearn", **runs[1])
    # A base model that an unlearner trains itself takes the draws of the plain one.
    plain, own = (at.model(Run(**BASE, forget="class_0", unlearner=name), "0").above for name in ("finetune", "sisa"))
    bases = [above["before"][0].of for above in (plain, own)]
    assert bases[0].names["base"] != bases[1].names["base"] and bases[0].seed(0) == bases[1].seed(0)


def test_no_two_independent_models_share_a_draw() -> None:
    jobs = every(planned())
    trained = {
        (one.stage, one.names["dataset"], one.names.get("forget"), number): one.seed(number)
        for one in jobs.values()
        if one.stage in ("train", "unlearn")
        for number in numbers(one.names["block"])
    }
    assert len(trained) > 50 and len(set(trained.values())) == len(trained)


def test_each_role_draws_for_itself() -> None:
    stages = ("request", "train", "unlearn", "attack", "prepare", "measure")
    seeds = {seed_of(stage, {"dataset": "digits", "forget": "class_0"}, 0) for stage in stages}
    assert len(seeds) == len(stages)


def test_an_own_base_training_knows_all_requests_but_those_that_are_chosen_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(folder, "class_0-random_tenth,amnesiac-amnesiac")
    at = planned()
    run = Run(**BASE, forget="class_0-random_tenth", unlearner="amnesiac-amnesiac")
    known = at.base(run, "0-1").inputs["requests"]
    assert [path.split("/")[4] for path in known] == ["class_0", "random_tenth"], "all that may come"
    add_requests(folder, {"worst": {"method": "margin", "count": 20}})
    ask(folder, "worst,amnesiac")
    late = planned().base(Run(**BASE, forget="worst", unlearner="amnesiac"), "0-1")
    assert not any("worst" in path for path in late.inputs["requests"]), "it is served by training once more"
    literal = method.literal
    monkeypatch.setattr(method, "literal", lambda file, name: None if name == "REPLAYS" else literal(file, name))
    with pytest.raises(ConfigError, match="amnesiac must know its requests before training"):
        every(planned())


def test_an_attack_seeks_the_answers_of_the_model_that_it_is_told_and_may_be_made_on_another() -> None:
    told = {"elsewhere": {"method": "uma", "made_on": "salun"}}
    at = planned(block={"other": 1}, attacks=told)
    run = Run(**BASE, forget="class_0", unlearner="finetune")

    def inputs(attack: str, block: str = "1", **own: str) -> tuple[list[str], str, list[int]]:
        one = at("attack", **{**run.names, **own}, attack=attack, block=block)
        return *(one.inputs[name] for name in ("original", "model")), one.asks["aims"]  # type: ignore[return-value]

    base, made = (
        "results/demo/base/digits/small_cnn_narrow/plain",
        "results/demo/unlearned/digits/small_cnn_narrow/class_0",
    )
    finetuned = f"{made}/finetune/1.safetensors"
    assert inputs("uma") == ([f"{base}/1.safetensors"], finetuned, [1])
    assert inputs("uma_another") == ([f"{base}/0.safetensors"], finetuned, [0])
    assert inputs("uma_another", "0")[2] == [1]
    assert inputs("uma_reference") == ([f"{made}/retrain/1.safetensors"], finetuned, [1]), "it lacks the same data"
    assert inputs("elsewhere") == ([f"{base}/1.safetensors"], f"{made}/salun/1.safetensors", [1])
    with pytest.raises(ConfigError, match="retrain would be attacked towards its own answers on class_0"):
        inputs("uma_reference", unlearner="retrain")
    alone = planned(repetitions=1)("attack", **run.names, attack="uma_another", block="0")
    assert alone.inputs["original"] == [f"{base}/100.safetensors"] and alone.asks["aims"] == [100]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"images": "unsen"}, "attacks.mine.images has no word 'unsen'; Did you mean 'unseen'"),
        ({"towards": "other"}, "attacks.mine.towards has no word 'other'"),
        ({"made_on": "saIun"}, "attacks.mine.made_on has no unlearner 'saIun'; Did you mean 'salun'"),
    ],
)
def test_an_attack_on_what_does_not_exist_is_refused(entry: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        configuration.load(scale="demo", attacks={"mine": {"method": "uma", **entry}})


def test_every_repetition_may_go_on_from_the_run_nearest_the_mean() -> None:
    entry = {"method": "finetune", "from_nearest": True}
    at = planned(unlearners={"onwards": entry}, requests=ONCE, block={"other": 1})
    run = Run(**BASE, forget="tenth-same", unlearner="finetune-onwards")
    for block in at.plan.blocks(run):
        one = at.model(run, block)
        place = "results/demo/unlearned/digits/small_cnn_narrow/tenth/finetune"
        assert one.inputs["before"] == [f"{place}/{n}.safetensors" for n in range(5)]
        assert "rows" not in one.inputs, "what a metric says of the step before decides nothing"
        assert one.asks["blocks"] == ["0", "1", "2", "3", "4"] and one.asks["from_nearest"] is True
        assert one.inputs["requests"] == ["results/demo/requests/digits/tenth/0.safetensors"]
    with pytest.raises(ConfigError, match="needs a step before it"):
        at.model(Run(**BASE, forget="tenth", unlearner="onwards"), "0")
    with pytest.raises(ConfigError, match="all repetitions of class_0-same must forget the same samples"):
        at.model(Run(**BASE, forget="class_0-same", unlearner="finetune-onwards"), "0")


@pytest.mark.parametrize("size", [1, 10])
def test_where_a_request_is_chosen_once_every_repetition_begins_from_base_model_0(folder: Path, size: int) -> None:
    add_requests(folder, ONCE)
    ask(folder, "tenth,original", "tenth,finetune", "worst-same,retrain-finetune", "tenth-worst,sisa-sisa")
    with (folder / "uma/table4.csv").open("a") as file:
        file.write("cifar10,resnet50,tenth,finetune,uma,8/255,forget_accuracy,,,,planted\n")
        file.write("cifar10,resnet50,tenth,finetune,none,,test_accuracy_retained_before,,,,planted\n")
    at = planned(block={"other": size})
    base = at.base(Run(**BASE, forget="class_0", unlearner="finetune"), "0").outputs["model"]
    one = Run(**BASE, forget="tenth", unlearner="finetune")
    blocks = at.plan.blocks(one)
    assert [number for block in blocks for number in numbers(block)] == list(range(5))
    for block in blocks:
        count = len(numbers(block))
        made, predicted = at.model(one, block), at("predict", **one.names, block=block)
        attacked = at("attack", **one.names, attack="uma", block=block)
        assert made.inputs["before"] == [base] and made.asks["bases"] == [0] * count and made.asks["first"]
        assert predicted.inputs["original"] == base and predicted.asks["bases"] == [0] * count
        assert attacked.inputs["original"] == [base] * count and attacked.asks["aims"] == [0] * count
        for job in (made, predicted, attacked):
            assert job.inputs["requests"] == ["results/demo/requests/digits/tenth/0.safetensors"]
    assert len({at.model(one, blocks[0]).seed(number) for number in range(5)}) == 5, "what it draws differs"
    chosen = at.requests(Run(**BASE, forget="worst-same", unlearner="retrain-finetune"), blocks[-1])
    assert [file.of.names["block"] for file in chosen] == ["0"] and chosen[0].of.inputs["model"] == base
    assert all(file.of.asks["once"] for file in chosen)
    second = at.requests(Run(**BASE, forget="tenth-worst", unlearner="sisa-sisa"), blocks[-1])[-1]
    assert second.of.inputs["model"].endswith(f"/tenth/sisa/{blocks[0]}.safetensors"), "the chain's repetition 0"
    # The model before unlearning is one, and stands beside each.
    alone = Run(**BASE, forget="tenth", unlearner=ORIGINAL)
    assert at.plan.blocks(alone) == ["0"] and at("predict", **alone.names, block="0").inputs["model"] == base
    assert [cell.alone for cell in at.plan.asked[alone]] == [True] and not any(c.alone for c in at.plan.asked[one])
    # Tuning has its own.
    held_out = at.model(one, at.plan.held_out)
    assert held_out.asks["bases"] == numbers(at.plan.held_out) and not held_out.above["requests"][0].of.asks["once"]
    # And an attack towards another model finds another.
    aims = [at("attack", **one.names, attack="uma_another", block=block).asks["aims"] for block in blocks]
    assert {number for several in aims for number in several} == {100}


@pytest.mark.parametrize("size", [2, 10])
def test_requests_may_differ_where_all_begin_from_base_model_0(folder: Path, size: int) -> None:
    add_requests(folder, {"each": {"method": "margin", "count": 20, "one_base": True, "repetitions": 4}})
    ask(folder, "each,original", "each,finetune")
    with (folder / "uma/table4.csv").open("a") as file:
        file.write("cifar10,resnet50,each,finetune,none,,test_accuracy_full_before,,,,planted\n")
    at = planned(block={"other": size})
    run, alone = (Run(**BASE, forget="each", unlearner=name) for name in ("finetune", ORIGINAL))
    base = at.base(run, "0").outputs["model"]
    for block in at.plan.blocks(run):
        (request,) = at.requests(run, block)
        assert request.of.names["block"] == block and not request.of.asks["once"], "a request of its own for each"
        assert request.of.inputs["model"] == base and request.of.asks["bases"] == [0] * len(numbers(block))
        assert at.model(run, block).inputs["before"] == [base]
        assert at("predict", **run.names, block=block).inputs["original"] == base
    assert at.plan.blocks(alone) == ["0"] and [cell.alone for cell in at.plan.asked[alone]] == [True]
    assert at.requests(alone, "0") == at.requests(run, at.plan.blocks(run)[0]), "and none is made twice"


def test_a_shadow_server_begins_from_a_base_model_that_no_table_uses() -> None:
    at = planned()
    run = Run(**BASE, forget="each_class", unlearner="retrain")
    made = at.model(run, "0-9")
    assert made.inputs["before"] == ["results/demo/base/digits/small_cnn_narrow/plain/100.safetensors"]
    assert made.asks["bases"] == [100] * 10 and made.asks["blocks"] == ["100"]
    assert made.inputs["requests"] == ["results/demo/requests/digits/each_class/0-9.safetensors"]
    assert at("attack", **run.names, attack="uma", block="0-9").asks["aims"] == [100] * 10


def test_the_requests_of_a_chain_agree_on_where_repetitions_begin(folder: Path) -> None:
    add_requests(folder, ONCE)
    ask(folder, "class_0-worst,retrain-finetune")
    with pytest.raises(ConfigError, match="class_0-worst: `once` is said of all requests of a chain, or of none"):
        every(planned())
    shutil.copy(ROOT / "config/papers/uma/table4.csv", folder / "uma/table4.csv")
    ask(folder, "each_class,original")
    with pytest.raises(ConfigError, match="begins from a base model that no table uses: original has no row"):
        planned().plan.check()


def test_what_forgot_nothing_is_the_base_itself() -> None:
    at = planned()
    run = Run(**BASE, forget="class_0", unlearner=ORIGINAL)
    assert at.model(run, "0-1").stage == "train" and at.model(run, "0-1") is at.base(run, "0-1")
