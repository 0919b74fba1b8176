"""One finished project at the scale `tiny`, which the tests of a session share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from planted import plant
from test_workflow import copied, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what `planted` brings, after one whole run. A test that changes it changes it back."""
    import os

    if os.environ.get("DEV"):
        return Path(os.environ["DEV"])
    copy = copied(tmp_path_factory.mktemp("project"))
    plant(copy)
    snakemake(copy)
    return copy


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the finished project, with its dates, for a test that does not change it back."""
    return lambda: Path(shutil.copytree(finished, tmp_path / "again"))
