# SPDX-License-Identifier: Apache-2.0
"""Time the official algorithms against ours: `python -m benchmarks.official`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import plain_errors
from tokenprune_cli.console.options import OnlyJson, RecordFile
from tokenprune_evaluation.files import check_folder
from tokenprune_evaluation.records import Provenance


@dataclass(frozen=True)
class OfficialRecord(Provenance):
    """Comparisons of selection, then of scoring."""

    official: list[dict[str, Any]]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: RecordFile = None,
    as_json: OnlyJson = False,
) -> None:
    """Time the official selection loop and the official sensitivity against ours, on random rows."""
    with plain_errors():
        import torch

        from benchmarks.official.algorithms import compare_picks, compare_scores

        check_folder(output)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        made = Provenance.here(device, program="python -m benchmarks.official")
        record = OfficialRecord(**vars(made), official=[compare_picks(device), compare_scores(device)])
        deliver(record, _show, as_json, output)


def _show(record: OfficialRecord) -> None:
    from benchmarks.official.sentences import official_lines

    for line in official_lines({"official": record.official}):
        typer.echo(line)


if __name__ == "__main__":
    app()
