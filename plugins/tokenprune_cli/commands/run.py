# SPDX-License-Identifier: Apache-2.0
"""`tokenprune run`: answer a question about an image with fewer visual tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenprune_cli.console import options
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision, load_model

NAMED = "NAME[,option=value]"


def run(
    image: Annotated[Path, typer.Option(help="The image.", metavar="FILE")],
    prompt: Annotated[str, typer.Option(help="The question about the image.")],
    model: options.ModelName = None,
    method: Annotated[
        str | None,
        typer.Option(help="A method, with options or without (default: zoo-exact).", metavar=NAMED),
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Instead of a method: a scorer.", metavar=NAMED)] = None,
    selector: Annotated[str | None, typer.Option(help="A selector to go with it.", metavar=NAMED)] = None,
    reducer: Annotated[str | None, typer.Option(help="A reducer to go with them.", metavar=NAMED)] = None,
    keep: Annotated[
        str | None, typer.Option(help="Visual tokens to keep, or cover:RADIUS.", metavar="N")
    ] = None,
    keep_ratio: Annotated[
        str | None,
        typer.Option(help="Ratio of visual tokens to keep, above 0 and at most 1.", metavar="SHARE"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Where to cut: vision, projector or decoder.", metavar="STAGE")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer before which to cut, or several: 4,8.", metavar="N")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Of kept tokens: contiguous or original.", metavar="RULE")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP checkpoint of cdpruner and relevance.", metavar="PATH_OR_ID")
    ] = None,
    setting: Annotated[
        Path | None,
        typer.Option(help="Instead of a method and a budget: a file of calibrate.", metavar="FILE"),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also answer without pruning.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Save a picture of the kept tokens.", metavar="FILE")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer.")] = 64,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, help="Seed of methods that draw random numbers (default 0).", metavar="N"
        ),
    ] = None,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.OnlyJson = False,
) -> None:
    """Answer a question about an image with a few of its visual tokens."""
    with plain_errors():
        from tokenprune_evaluation.clip_checkpoint import role_with_clip, with_clip
        from tokenprune_evaluation.images import check_writable, open_image, save_image
        from tokenprune_evaluation.prompts import picture_token, tokenized, unusable_character

        import tokenprune
        from tokenprune_cli.console.budgets import budget_or_rule
        from tokenprune_cli.console.pruning import layers, strategy_arguments
        from tokenprune_cli.run.answers import answer
        from tokenprune_cli.run.picture import kept_picture

        if not prompt.strip():
            raise BadInputError("--prompt is empty; ask a question about the image")
        character = unusable_character(prompt)
        if character is not None:
            raise BadInputError(f"--prompt contains {character!r}, which is not allowed; remove it")
        calibrated: tokenprune.CalibratedSetting | None = None
        named = {"method": method, "scorer": scorer, "selector": selector, "reducer": reducer}
        places = {"stage": stage, "layer": layers(layer), "positions": positions}
        if setting is not None:
            given = {**named, **places, "keep": keep, "keep-ratio": keep_ratio, "clip": clip, "seed": seed}
            _refuse_beside_setting(given)
            calibrated = tokenprune.CalibratedSetting.load(setting)
            arguments: dict[str, Any] = {}
        else:
            arguments = strategy_arguments(named, places, seed)
            if "schedule" not in arguments:
                arguments["keep"] = budget_or_rule(keep, keep_ratio)
            elif keep is not None or keep_ratio is not None:
                raise BadInputError(
                    "a schedule sets how many rows are kept; leave out --keep and --keep-ratio"
                )
            if clip is not None:
                role_with_clip(arguments)
        picture = open_image(image)
        if save is not None:
            check_writable(save)
        with quietly():
            network, processor = load_model(model, device, dtype, trust_remote_code)
            token = picture_token(processor, prompt)
            if token is not None:
                raise BadInputError(
                    f"--prompt contains {token!r}, which stands for an image; remove it, the image is placed "
                    "before the question"
                )
            inputs = tokenized(processor, [picture], [prompt])
            if calibrated is not None:
                calibrated.check(network)
                arguments = calibrated.apply_arguments()
            if clip is not None:
                arguments = with_clip(arguments, clip, network, processor.tokenizer)
            answers = answer(network, processor, inputs, arguments, max_new_tokens, compare)
        if model is None:
            _warn_of_unknown_words(processor, prompt)
        typer.echo(json.dumps(answers.record(), indent=2) if as_json else "\n".join(answers.lines()))
        if save is not None:
            save_image(kept_picture(processor, inputs, answers.report, [prompt, *answers.caption()]), save)
            typer.echo(f"picture of the kept tokens: {save}", err=as_json)


def _refuse_beside_setting(options: dict[str, Any]) -> None:
    named = [f"--{name}" for name, value in options.items() if value is not None]
    if named:
        raise BadInputError(f"--setting has the method and its budget; leave {', '.join(named)} out")


def _warn_of_unknown_words(processor: Any, prompt: str) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if tokenizer.unk_token_id in ids:
        typer.echo(
            "tokenprune: the embedded model knows only the words of its synthetic scenes, and not all words "
            "of this prompt; try 'what color is the star ?', or another model with --model",
            err=True,
        )
