# SPDX-License-Identifier: Apache-2.0
"""Write the package of a new plugin."""

from __future__ import annotations

from pathlib import Path

from tokenprune_evaluation.files import cannot_write

from tokenprune_cli.console.failures import BadInputError, first_line
from tokenprune_cli.new_plugin.names import Names

TEMPLATES = Path(__file__).parent / "templates"


def files_of(names: Names) -> dict[str, str]:
    """Return the texts of the package's files by their paths in its directory."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kind = names.kind.value
    templates = {
        "pyproject.toml": "pyproject.toml.jinja",
        f"{names.module}.py": f"{kind}.py.jinja",
        f"test_{names.name.replace('-', '_')}.py": f"test_{kind}.py.jinja",
        f"docs/{names.name}.md": f"{kind}.md.jinja",
    }
    values = {
        "name": names.name,
        "kind": kind,
        "distribution": names.distribution,
        "module": names.module,
        "class_name": names.class_name,
        "model_name": names.model_name,
    }
    return {path: environment.get_template(template).render(values) for path, template in templates.items()}


def write_package(folder: Path, files: dict[str, str]) -> None:
    """Write files into a new directory.

    Raises
    ------
    BadInputError
        When the directory exists, or it or a file cannot be written.
    """
    try:
        folder.mkdir()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise BadInputError(f"the directory '{folder}' cannot be made: {reason}") from None
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error) from None
