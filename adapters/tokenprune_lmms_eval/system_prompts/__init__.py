# SPDX-License-Identifier: Apache-2.0
"""System prompts by name, for checkpoints whose chat templates lack the one they were trained with.

Each is a file `NAME.txt` in this folder. `vicuna_v1` is Vicuna's system prompt, which LLaVA's conversation
template of the same name prepends to each question (arXiv 2310.03744 evaluates with it).
"""

from __future__ import annotations

from pathlib import Path

from tokenprune import InputError

FOLDER = Path(__file__).parent


def system_prompt_names() -> tuple[str, ...]:
    """Return the names of the system prompts."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


def read_system_prompt(name: str) -> str:
    """Return a system prompt by its name, or the text of a file, without surrounding whitespace.

    A name is looked up first; write `./vicuna_v1` for a file of that name.

    Raises
    ------
    InputError
        If it is neither a name nor a file that can be read, or the file is empty.
    """
    path = FOLDER / f"{name}.txt" if name in system_prompt_names() else Path(name)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        listed = ", ".join(system_prompt_names())
        raise InputError(
            f"system_prompt must be {listed} or a file: cannot read the file '{name}': {error}"
        ) from None
    if not text:
        raise InputError(f"system_prompt: the file '{name}' is empty")
    return text
