"""What a paper adds to its page in Python of its own: sections.py and checks.py in config/papers/<paper>/.

sections(context) -> list of (title, HTML)      parts of the page, before the tables
checks(context) -> list of checks.Check         in addition to those that paper.yaml declares
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline import papers
from palimpsest.pipeline.cells import Plan
from palimpsest.report import formats
from palimpsest.report.compare import Compared


@dataclass(frozen=True)
class Context:
    """What a section knows.

    found: the compared cells of the paper's tables. results: results/<scale>.
    """

    plan: Plan
    paper: str
    about: Mapping[str, Any]
    found: Sequence[Compared]
    results: Path

    def render(self, template: str, **values: Any) -> str:
        """Return a template of the paper's folder as HTML; it may import those of workflow/report/."""
        text = (papers.PAPERS / self.paper / template).read_text()
        return formats.environment().from_string(text).render(about=self.about, **values)


def call(context: Context, name: str) -> list[Any]:
    """Call the function `name` in the paper's file of that name and return its list; empty where there is no file."""
    file = papers.PAPERS / context.paper / f"{name}.py"
    return list(getattr(load(file), name)(context)) if file.is_file() else []


def load(file: Path) -> Any:
    """Import a Python file by its path, once."""
    name = f"{file.parent.name}_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader, file
        sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
