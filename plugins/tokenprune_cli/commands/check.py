# SPDX-License-Identifier: Apache-2.0
"""`tokenprune check`: test whether tokenprune keeps its promises on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from tokenprune_evaluation.files import check_folder
from tokenprune_evaluation.model_name import EMBEDDED, model_name

from tokenprune_cli.console import options
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision, load_model, place_of, precision_of

BROKEN = 1  # exit code if a promise is broken


def check(
    model: Annotated[
        str | None,
        typer.Option(
            help="A directory, a hub id, or 'embedded'; default: a tiny model of each family.",
            metavar="PATH_OR_ID",
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Only the tiny model of this name in the table; may be repeated."),
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be repeated.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Visual tokens to keep; only with --model.", metavar="N")
    ] = None,
    keep_ratio: Annotated[
        str | None,
        typer.Option(help="Ratio of visual tokens to keep, below 1 (default 0.5).", metavar="SHARE"),
    ] = None,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    attn: Annotated[
        str | None,
        typer.Option(help="Attention implementation by its name in transformers: sdpa, eager, ..."),
    ] = None,
    seed: options.Seed = 0,
    trust_remote_code: options.TrustRemoteCode = False,
    output: options.RecordFile = None,
    as_json: options.OnlyJson = False,
) -> None:
    """Check tokenprune's promises on tiny models of every family, or on a model of yours."""
    with plain_errors(), quietly():
        import tokenprune
        from tokenprune_cli.check.running import Settings, check_loaded, check_specimens
        from tokenprune_cli.check.table import show
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.progress import ProgressBar

        if model is None and keep is not None:
            raise BadInputError(
                "--keep goes with --model; tiny models differ in their number of tokens, use --keep-ratio"
            )
        if model is not None and family:
            raise BadInputError("--family names a tiny model; give either it or --model")
        if model is None and trust_remote_code:
            raise BadInputError(
                "--trust-remote-code goes with --model; tiny models have no code of their own"
            )
        ratio = "0.5" if keep is None and keep_ratio is None else keep_ratio
        for name in method or ():
            tokenprune.method(name)
        check_folder(output)
        settings = Settings(method or None, budget(keep, ratio), seed)
        if model is None:
            place = place_of(device)
            with ProgressBar() as progress:
                record = check_specimens(
                    settings, family or (), place, precision_of(dtype, place), attn, progress
                )
        else:
            source = None if model == EMBEDDED else model
            network, processor = load_model(source, device, dtype, trust_remote_code, attn)
            record = check_loaded(settings, model_name(source), network, processor)
        deliver(record, show, as_json, output)
    if not record.passed:
        raise typer.Exit(BROKEN)
