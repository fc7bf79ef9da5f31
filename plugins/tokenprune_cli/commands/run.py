# SPDX-License-Identifier: Apache-2.0
"""`tokenprune run`: answer a question about an image with fewer visual tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune_cli.console import options
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    import tokenprune


def run(
    image: Annotated[Path, typer.Option(help="The image.", metavar="FILE")],
    prompt: Annotated[str, typer.Option(help="The question about the image.")],
    model: options.ModelName = None,
    method: Annotated[str | None, typer.Option(help="Name of a method (default: zoo-exact).")] = None,
    scorer: Annotated[str | None, typer.Option(help="Instead of a method: name of a scorer.")] = None,
    selector: Annotated[str | None, typer.Option(help="Name of a selector to go with it.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Visual tokens to keep, or cover:RADIUS.", metavar="N")
    ] = None,
    keep_ratio: Annotated[
        str | None,
        typer.Option(help="Ratio of visual tokens to keep, above 0 and at most 1.", metavar="SHARE"),
    ] = None,
    setting: Annotated[
        Path | None,
        typer.Option(help="Instead of a method and a budget: a file of calibrate.", metavar="FILE"),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Save a picture of the kept tokens.", metavar="FILE")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer.")] = 64,
    seed: options.Seed = 0,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.OnlyJson = False,
) -> None:
    """Answer a question about an image with a few of its visual tokens."""
    with plain_errors():
        from tokenprune_evaluation.images import check_writable, open_image, save_image
        from tokenprune_evaluation.prompts import picture_token, placed, tokenized, unusable_character

        import tokenprune
        from tokenprune_cli.console.budgets import budget_or_rule

        if not prompt.strip():
            raise BadInputError("--prompt is empty; ask a question about the image")
        character = unusable_character(prompt)
        if character is not None:
            raise BadInputError(f"--prompt contains {character!r}, which is not allowed; remove it")
        calibrated: tokenprune.CalibratedSetting | None = None
        arguments: dict[str, Any] = {"seed": seed}
        if setting is not None:
            strategy = {"method": method, "scorer": scorer, "selector": selector}
            _refuse_beside_setting({**strategy, "keep": keep, "keep-ratio": keep_ratio})
            calibrated = tokenprune.CalibratedSetting.load(setting)
        else:
            arguments["keep"] = budget_or_rule(keep, keep_ratio)
            arguments |= _strategy(method, scorer, selector)
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
            with tokenprune.apply(network, **arguments) as handle:
                output = network.generate(
                    **placed(network, inputs), max_new_tokens=max_new_tokens, do_sample=False
                )
                report, name = handle.last, handle.cuts[0].method.name
        if report is None:
            raise BadInputError("no visual token reached the language model, so nothing was pruned")
        new_ids = output[:, inputs["input_ids"].shape[1] :]
        answer = processor.batch_decode(new_ids, skip_special_tokens=True)[0].strip()
        if model is None:
            _warn_of_unknown_words(processor, prompt)
        if as_json:
            typer.echo(json.dumps(_record(answer, name, report), indent=2))
        else:
            typer.echo(answer)
            typer.echo(f"{name}: {report}")
        if save is not None:
            save_image(_kept_picture(processor, inputs, report, [prompt, f"{answer} ({name})"]), save)
            typer.echo(f"picture of the kept tokens: {save}", err=as_json)


def _refuse_beside_setting(options: dict[str, str | None]) -> None:
    named = [f"--{name}" for name, value in options.items() if value is not None]
    if named:
        raise BadInputError(f"--setting has the method and its budget; leave {', '.join(named)} out")


def _strategy(method: str | None, scorer: str | None, selector: str | None) -> dict[str, Any]:
    """Look up the names, before a model is loaded."""
    import tokenprune

    if method is not None and (scorer is not None or selector is not None):
        raise BadInputError("give either --method or --scorer and --selector, not both")
    if method is not None:
        return {"method": tokenprune.method(method)}
    return {
        "scorer": None if scorer is None else tokenprune.scorer(scorer),
        "selector": None if selector is None else tokenprune.selector(selector),
    }


def _warn_of_unknown_words(processor: Any, prompt: str) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if tokenizer.unk_token_id in ids:
        typer.echo(
            "tokenprune: the embedded model knows only the words of its synthetic scenes, and not all words "
            "of this prompt; try 'what color is the star ?', or another model with --model",
            err=True,
        )


def _kept_picture(
    processor: Any, inputs: dict[str, Any], report: tokenprune.PruningReport, lines: Sequence[str]
) -> Image:
    """Draw the kept patches on the image as the model sees it: cropped, or cut into tiles."""
    from tokenprune_visualize import captioned, in_rows, kept

    pieces = [kept(image, inputs=inputs, processor=processor) for image in report.images]
    return captioned(pieces[0] if len(pieces) == 1 else in_rows(pieces), lines)


def _record(answer: str, name: str, report: tokenprune.PruningReport) -> dict[str, Any]:
    return {
        "answer": answer,
        "method": name,
        "images": [
            {
                "grid": list(image.layout.grid),
                "visual_tokens_before": image.n_before,
                "visual_tokens": image.n_after,
                "kept": None if image.kept is None else image.kept.tolist(),
            }
            for image in report.images
        ],
        "kv_cache_bytes": report.kv_bytes,
        "kv_cache_bytes_unpruned": report.kv_bytes_unpruned,
    }
