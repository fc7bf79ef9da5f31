# SPDX-License-Identifier: Apache-2.0
"""What was answered so far, line by line in a file, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune_bench.cli.failures import BadInputError


class Journal:
    """An append-only file of JSON lines: first the configuration, then one line for each piece of work.

    Parameters
    ----------
    path
        The file; it is made if it does not exist.
    configuration
        Everything the answers depend on. A file with another one is refused.
    restart
        Throw away what the file holds.

    Raises
    ------
    BadInputError
        When the file was made under another configuration, or is none of ours.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if restart or not path.exists() or not path.stat().st_size:
            path.write_text(json.dumps({"configuration": configuration}) + "\n", encoding="utf-8")
            return
        whole = path.read_bytes()
        complete = whole[: whole.rfind(b"\n") + 1]  # a kill may have cut the last line short
        try:
            head, *self.lines = [json.loads(line) for line in complete.splitlines()]
            found = head["configuration"]
        except (ValueError, KeyError, TypeError):
            raise BadInputError(
                f"'{path}' holds no answers of tokenprune compare; give another --output, or --restart to "
                "overwrite it"
            ) from None
        changed = [
            f"{name}: {_short(found.get(name))}, now {_short(configuration.get(name))}"
            for name in {**found, **configuration}
            if found.get(name) != json.loads(json.dumps(configuration.get(name)))
        ]
        if changed:
            raise BadInputError(
                f"'{path}' holds answers of another configuration ({'; '.join(changed)}); give another "
                "--output, or --restart to begin anew"
            )
        if len(complete) < len(whole):
            with path.open("r+b") as file:
                file.truncate(len(complete))

    def append(self, line: dict[str, Any]) -> None:
        """Write one line at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
