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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that other cores have the other files to themselves meanwhile."""
    items.sort(key=lambda item: item.path.stem != "test_workflow")
