"""The demo's tables are those from before the redesign, cell by cell (frozen on a processor with AVX-512).

Only for as long as the redesign lasts: `tests/frozen` goes when the seeds change.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).parent / "frozen"
DEMO = ROOT / "results" / "demo" / "papers"
MEASURED = ("mean", "sd", "n", "unit", "images", "half_width", "difference", "verdict")
CELL = (
    *("dataset", "model", "forget", "unlearner", "attack", "epsilon", "defense", "screening", "metric", "control"),
    *("published", "repetition", "label", "class"),
)


def cells(file: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Every line by what it is about; lines of a distribution, which may repeat, by their number too."""
    with file.open(newline="") as handle:
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for row in csv.DictReader(handle):
            key = tuple(row.get(name, "") for name in CELL)
            number = sum(key == other[:-1] for other in found) if "value" in row else 0
            found[(*key, str(number))] = row
    return found


@pytest.mark.parametrize("frozen", sorted(FROZEN.glob("*/*.csv")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_cell_is_as_it_was(frozen: Path) -> None:
    now = DEMO / frozen.parent.name / frozen.name
    if not now.is_file():
        pytest.skip("the demo has not been run here")
    before, after = cells(frozen), cells(now)
    assert before.keys() == after.keys()
    for key, row in before.items():
        for name in (*MEASURED, "value"):
            assert row.get(name, "") == after[key].get(name, ""), (key, name)
