# SPDX-License-Identifier: Apache-2.0
"""`tokenprune check`: whether tokenprune keeps its promises here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.files import check_folder, deliver
from tokenprune_cli.console.models import Device, Precision, load_model, place_of, precision_of
from tokenprune_cli.console.options import (
    InPrecision,
    MethodNames,
    OnDevice,
    OnlyJson,
    RecordFile,
    Seed,
    TrustRemoteCode,
)
from tokenprune_cli.model_name import EMBEDDED, model_name

if TYPE_CHECKING:
    from tokenprune_cli.check.record import CheckRecord

BROKEN = 1  # exit code where a promise is


def check(
    model: Annotated[
        str | None,
        typer.Option(
            help="A directory, a hub id, or 'embedded'; default: a tiny model of each family.",
            metavar="PATH_OR_ID",
        ),
    ] = None,
    method: MethodNames = None,
    keep: Annotated[
        str | None, typer.Option(help="Visual tokens to keep; with --model.", metavar="N")
    ] = None,
    keep_ratio: Annotated[
        str | None,
        typer.Option(help="Or the share of them to keep, below 1 (default 0.5).", metavar="SHARE"),
    ] = None,
    device: OnDevice = Device.auto,
    dtype: InPrecision = Precision.auto,
    attn: Annotated[
        str | None,
        typer.Option(help="Attention implementation, as transformers calls it: sdpa, eager, ..."),
    ] = None,
    seed: Seed = 0,
    trust_remote_code: TrustRemoteCode = False,
    output: RecordFile = None,
    as_json: OnlyJson = False,
) -> None:
    """Check tokenprune's promises on tiny models of every family, or on a model of yours."""
    with plain_errors(), quietly():
        import tokenprune
        from tokenprune_cli.check.running import Settings, check_one, check_specimens
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.progress import ProgressBar

        if model is None and keep is not None:
            raise BadInputError(
                "--keep goes with --model: tiny models have different numbers of visual tokens; give "
                "--keep-ratio"
            )
        if model is None and trust_remote_code:
            raise BadInputError("--trust-remote-code goes with --model; the tiny models bring no code")
        share = "0.5" if keep is None and keep_ratio is None else keep_ratio
        for name in method or ():
            tokenprune.method(name)
        check_folder(output)
        settings = Settings(method or None, budget(keep, share), seed)
        if model is None:
            place = place_of(device)
            with ProgressBar() as progress:
                record = check_specimens(settings, place, precision_of(dtype, place), attn, progress)
        else:
            given = None if model == EMBEDDED else model
            network, processor = load_model(given, device, dtype, trust_remote_code, attn)
            record = check_one(settings, model_name(given), network, processor)
        deliver(record, _show, as_json, output)
    if not record.passed:
        raise typer.Exit(BROKEN)


def _show(record: CheckRecord) -> None:
    from rich.console import Console

    from tokenprune_cli.check.table import show

    show(record, Console(highlight=False))
