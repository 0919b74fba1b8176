"""How the configuration is refused: in one sentence that lists what is valid, before the first job."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"


class ConfigError(SystemExit):
    """The configuration cannot be run; the message says what is wrong and lists what is valid.

    An exit, so that Snakemake ends with this one sentence instead of a trace through the Snakefile.
    """


def unknown(where: str, what: str, name: str, valid: Iterable[str]) -> str:
    """The sentence about a name that is not among the valid ones."""
    known, name = sorted(valid), str(name)  # YAML reads a bare `on` as true
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{where} has no {what} {name!r};{hint} it takes {', '.join(known) or 'none'}."


def check(content: Any, schema: str, whole: str, inside: str = "") -> None:
    """Check `content` against workflow/schemas/<schema>.schema.yaml.

    whole: what the sentence calls the content. inside: the words before the keys that lead to a part of it.
    """
    rules = yaml.safe_load((SCHEMAS / f"{schema}.schema.yaml").read_text())
    errors = jsonschema.Draft202012Validator(rules).iter_errors(content)
    for error in sorted(errors, key=lambda error: list(map(str, error.path))):
        where = inside + ".".join(map(str, error.path)) if error.path else whole
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            stray = sorted(set(error.instance) - set(known))[0]
            raise ConfigError(unknown(where, "key", stray, known))
        if error.validator == "required":
            absent = sorted(set(error.validator_value) - set(error.instance))[0]
            about = error.schema.get("properties", {}).get(absent, {}).get("description")
            raise ConfigError(f"{where} lacks the key {absent!r}{': ' + about if about else '.'}")
        raise ConfigError(f"{where} cannot be {error.instance!r}: {error.schema.get('description', error.message)}")
