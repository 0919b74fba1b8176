"""One finished project at the scale `tiny`, which the tests of a session share."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import plant
from test_workflow import KEPT, copied, only, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what `planted` brings, after one whole run. A test that changes it changes it back."""
    copy = only(copied(tmp_path_factory.mktemp("project")), KEPT)
    plant(copy)
    snakemake(copy)
    return copy


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one core, and on one those that change the finished project and change it back."""
    for item in items:
        of = "finished" if "finished" in getattr(item, "fixturenames", ()) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(of))
