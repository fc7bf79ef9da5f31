# SPDX-License-Identifier: Apache-2.0
"""What blocks are made of: records in docs/benchmarks and templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from tokenprune_evaluation.records import Provenance

# by name; a function is given the arguments of the mark, as strings
Blocks = Mapping[str, Callable[..., str]]

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
RECORDS = DOCS / "benchmarks"
NOT_MEASURED = "Not measured yet."


def read_record(name: str) -> dict[str, Any]:
    """Read a record by its name below docs/benchmarks, without the suffix."""
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def has_record(name: str) -> bool:
    """Return whether there is a record of that name."""
    return (RECORDS / f"{name}.json").is_file()


def render(template: str, **values: Any) -> str:
    """Fill the template `docs/tools/templates/NAME.md.jinja`; a value that it names and lacks is an error."""
    return _ENVIRONMENT.get_template(f"{template}.md.jinja").render(values).strip()


def listed(values: Iterable[Any]) -> str:
    """Write values as in "1, 2 and 3"."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def measured(record: Mapping[str, Any]) -> str:
    """Say how a record was made."""
    return Provenance.of(record).sentence()


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"listed": listed, "measured": measured}
