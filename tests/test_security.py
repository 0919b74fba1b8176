"""What comes from elsewhere (a results folder, a remote, a configuration) may be wrong or hostile, never obeyed.

Archives and upstream pickles are in test_data.py.
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from test_workflow import ROOT

from palimpsest import data, models, train
from palimpsest.pipeline import configuration, method
from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.configuration import ConfigError

SOURCE = ROOT / "src" / "palimpsest"


class Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture(params=["pickle", "torch"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that would run code, under the name of a model, and the mark that it would leave."""
    file, mark = tmp_path / "0.safetensors", tmp_path / "mark"
    if request.param == "pickle":
        file.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"model": Payload(mark)}, file)
    return file, mark


def test_the_payload_does_run_where_a_checkpoint_is_unpickled(hostile: tuple[Path, Path]) -> None:
    file, mark = hostile
    content = io.BytesIO(file.read_bytes())
    if zipfile.is_zipfile(file):
        torch.load(content, weights_only=False)
    else:
        pickle.load(content)
    assert mark.exists()


def test_a_hostile_checkpoint_is_refused_and_never_run(hostile: tuple[Path, Path]) -> None:
    file, mark = hostile
    with pytest.raises(models.ModelError, match="not a readable model file"):
        models.load(file, 0)
    with pytest.raises(data.DataError, match="not a readable data file"):
        data.read(file)
    assert train.Checkpoint(file, key="any").restore() == (0, {})
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "os", "__init__", "evil;touch mark"])
def test_a_model_file_cannot_name_code_outside_its_folder(name: str) -> None:
    with pytest.raises(models.ModelError, match="no network file"):
        models.Network(models.Spec(name, 10, 1), torch.zeros(1), torch.ones(1))


def test_nothing_is_unpickled_but_in_the_loader_of_checked_files() -> None:
    """By the syntax tree: `pickle`, `torch.load`, `joblib`, `np.load(allow_pickle)`, `eval`, `exec`, `yaml.load`."""
    risky = {("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("yaml", "load")}
    found = set()
    for file in [*SOURCE.rglob("*.py"), *(ROOT / "workflow").rglob("*.py"), ROOT / "Snakefile"]:
        if file.name == "Snakefile":
            continue  # not Python's grammar; its imports are the package's
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                if {module.split(".")[0] for module in modules} & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}:
                    found.add(str(file.relative_to(SOURCE)))
            if isinstance(node, ast.Call):
                called = node.func
                name = called.id if isinstance(called, ast.Name) else ""
                pair = (getattr(getattr(called, "value", None), "id", ""), getattr(called, "attr", ""))
                tensors_only = any(ast.unparse(one) == "weights_only=True" for one in node.keywords)
                risk = pair in risky and not (pair == ("torch", "load") and tensors_only)
                assert name not in ("eval", "exec") and not risk, f"{file}:{node.lineno}"
                assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"
    assert found == {"data/_files.py"}


@pytest.mark.parametrize("scale", ["../../etc/passwd", "/etc/passwd", "..", "demo/../demo", ""])
def test_a_scale_is_one_of_those_there_are(scale: str) -> None:
    with pytest.raises(ConfigError, match="has no scale"):
        configuration.scale_file(scale)


@pytest.mark.parametrize("section", ["datasets", "models", "requests", "unlearners", "attacks", "defenses"])
@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "a b", "..", "Ünlearn"])
def test_a_name_in_the_configuration_cannot_leave_its_folder(section: str, name: str) -> None:
    """Names become parts of paths, and a method's name a file to import."""
    plain = configuration.load(scale="demo")
    with pytest.raises(ConfigError):
        configuration.resolve({**plain, "budgets": {}, section: {**plain[section], name: {"method": "digits"}}})
    first = next(iter(plain[section]))
    with pytest.raises(ConfigError):
        configuration.resolve({**plain, "budgets": {}, section: {**plain[section], first: {"method": name}}})
    assert name not in method.files("unlearners")


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b"])
@pytest.mark.parametrize("kind", ["datasets", "models", "requests"])
def test_a_stand_in_cannot_leave_the_results(kind: str, name: str) -> None:
    plain = configuration.load(scale="demo")
    known = {"datasets": "cifar10", "models": "resnet50", "requests": "random_5000"}[kind]
    with pytest.raises(ConfigError):
        changed = {**plain, "budgets": {}, "stand_ins": {**plain["stand_ins"], kind: {known: name}}}
        list(Plan(configuration.resolve(changed)).items)
