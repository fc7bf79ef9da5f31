# SPDX-License-Identifier: Apache-2.0
"""What was answered so far, line by line in a file, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.console.files import cannot_write, check_folder, make_directory, write_text


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
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        make_directory(path.parent)
        check_folder(path)
        if restart or not path.exists() or not path.stat().st_size:
            write_text(path, json.dumps({"configuration": configuration}))
            return
        try:
            whole = path.read_bytes()
        except OSError as error:
            raise BadInputError(f"'{path}' cannot be read: {error.strerror}") from None
        complete = whole[: whole.rfind(b"\n") + 1]  # a kill may have cut the last line short
        try:
            head, *self.lines = [json.loads(line) for line in complete.split(b"\n")[:-1]]
            found = dict(head["configuration"])
        except (ValueError, KeyError, TypeError, RecursionError):
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
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.lines.append(line)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
