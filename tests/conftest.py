"""One finished project at the scale `tiny`, which the tests of a session share."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import plant
from test_workflow import copied, only, snakemake

# Every table of the first two papers, a figure of each kind, and what of the third one is like nothing of these.
KEPT = {
    "uma": ["table1", "table2", "table4", "memory", "released", "purification", "pictures", "steps"],
    "leakage": [*(f"table{number}" for number in range(3, 9)), "figure3", "figure4", "figure5", "figure9", "figure16"],
    "healing": ["table1", "table6", "exact"],
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with what `planted` brings, after one whole run. A test that changes it changes it back."""
    copy = only(copied(tmp_path_factory.mktemp("project")), KEPT)
    plant(copy)
    snakemake(copy)
    return copy
