# SPDX-License-Identifier: Apache-2.0
"""Write answers to a file line by line, so that an interrupted run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.files import cannot_write, check_folder, make_directory, write_text


class Journal:
    """An append-only file of JSON lines: first the configuration, then a line for each result.

    Parameters
    ----------
    path
        The file; created if it does not exist.
    configuration
        Everything that the answers depend on. A file with another configuration is refused.
    restart
        Discard the contents of the file.
    command
        The command that writes it, for messages.
    """

    def __init__(
        self,
        path: Path,
        configuration: Mapping[str, Any],
        restart: bool = False,
        command: str = "tokenprune compare",
    ) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        make_directory(path.parent)
        check_folder(path)
        if restart or not path.exists() or not path.stat().st_size:
            write_text(path, json.dumps({"configuration": configuration}))
            return
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInputError(f"'{path}' cannot be read: {error.strerror}") from None
        complete = content[: content.rfind(b"\n") + 1]  # the last line is incomplete if the run was killed
        try:
            head, *self.lines = [json.loads(line) for line in complete.split(b"\n")[:-1]]
            earlier = dict(head["configuration"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInputError(
                f"'{path}' holds no answers of {command}; give another --output, or --restart to overwrite it"
            ) from None
        changed = [
            f"{name}: {_short(earlier.get(name))}, now {_short(configuration.get(name))}"
            for name in {**earlier, **configuration}
            if earlier.get(name) != json.loads(json.dumps(configuration.get(name)))
        ]
        if changed:
            raise BadInputError(
                f"'{path}' holds answers of another configuration ({'; '.join(changed)}); give another "
                "--output, or --restart to discard them"
            )
        if len(complete) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(complete))

    def append(self, line: dict[str, Any]) -> None:
        """Write a line immediately."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.lines.append(line)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
