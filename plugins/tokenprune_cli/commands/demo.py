# SPDX-License-Identifier: Apache-2.0
"""`tokenprune demo`: compare methods on pictures that are not in the training data."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from tokenprune_evaluation.files import check_folder, make_directory
from tokenprune_evaluation.model_name import model_name

from tokenprune_cli.console import options
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly

RESULTS = "demo.json"
BATCH = 64  # questions answered at once
LEGEND = (
    "kept: visual tokens after the last cut. right %: exact matches, with the 95 % interval over pictures. "
    "KV kB: key-value cache of a prompt. MFLOP: operations of the language model's prefill, by formula. "
    "?: the method saw the question. Methods that cut inside the language model process more visual tokens "
    "before the cut than they keep."
)
NOISE = "Which method is best here (clearly below: the 95 % interval of the difference does not contain 0):"


def demo(
    full: Annotated[bool, typer.Option("--full", help="All methods, more budgets and pictures.")] = False,
    method: options.MethodNames = None,
    keep: options.Keeps = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, max=100, help="Number of pictures (about 13 questions each).")
    ] = None,
    output: Annotated[Path, typer.Option(help="Directory for pictures and results.", metavar="DIR")] = Path(
        "demo-output"
    ),
    model: Annotated[
        str | None, typer.Option(help="A model trained on these scenes; default: the embedded one.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.OnlyJson = False,
) -> None:
    """Answer questions about pictures with and without pruning, and draw the kept tokens."""
    with plain_errors(), quietly():
        from rich.console import Console
        from tokenprune_evaluation.answering import ANSWER_TOKENS
        from tokenprune_evaluation.images import check_writable, save_image
        from tokenprune_evaluation.question_set import embedded_scenes
        from tokenprune_evaluation.records import Provenance, to_dict
        from tokenprune_evaluation.settings import known_method

        from tokenprune_cli.compare.answers import AnswerOptions, Run, answer_all
        from tokenprune_cli.compare.collected import collect
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.models import Device, load_model
        from tokenprune_cli.console.progress import ProgressBar
        from tokenprune_cli.demo import preset
        from tokenprune_cli.demo.pictures import columns, example_sheet

        methods = [known_method(name) for name in method or ()]
        budgets = [budget(text, None).keep or 0 for text in keep or ()]
        make_directory(output)
        check_folder(output / RESULTS)
        network, processor = load_model(model, Device.cpu)
        plan = preset.preset(network, full, methods, budgets)
        pictures = columns(plan.settings)
        if not pictures:
            raise BadInputError("; ".join([*plan.unavailable.values(), *plan.refused.values()]))
        for name in pictures:
            check_writable(output / name)
        questions = embedded_scenes(scenes or (preset.FULL_SCENES if full else preset.SCENES))
        run = Run(network, processor, questions, AnswerOptions(BATCH, ANSWER_TOKENS, seed))
        with ProgressBar() as progress:
            answers = collect(list(answer_all(run, plan.settings, progress)))
        for refusal in filter(None, (collected.refused for collected in answers.values())):
            raise BadInputError(refusal)
        record = {
            **to_dict(Provenance.here(command=_command(full, methods, budgets, scenes, seed))),
            "model": model_name(model),
            "seed": seed,
            **preset.results(plan, questions, answers, network.config.text_config),
            "files": list(pictures),
        }
        try:
            deliver(record, partial(_show, by_layer=full), as_json, output / RESULTS, indent=2)
        finally:  # the pictures are saved even if printing or writing fails
            for name, shown in pictures.items():
                save_image(example_sheet(questions, answers, shown), output / name)
        if not as_json:
            files = ", ".join(str(output / name) for name in [*pictures, RESULTS])
            Console(highlight=False).print(f"saved: {files}", markup=False, soft_wrap=True)


def _show(record: dict[str, Any], by_layer: bool) -> None:
    from rich.console import Console

    from tokenprune_cli.compare.table import refusals
    from tokenprune_cli.demo.table import demo_table

    console = Console(highlight=False, markup=False)
    console.print(
        f"{record['questions']} questions about {record['pictures']} pictures, none in the training data"
    )
    console.print(demo_table(record, by_layer).rich())
    console.print(LEGEND)
    console.print(NOISE)
    for sentence in record["conclusions"]:
        console.print(f"  {sentence}")
    if record["closing_line"]:
        console.print(record["closing_line"])
    for reason, number in refusals(record).items():
        console.print(f"[{number}] {reason}")
    for method, reason in record["unavailable"].items():
        console.print(f"{method} cannot be used on this model: {reason}")


def _command(full: bool, methods: list[str], budgets: list[int], scenes: int | None, seed: int) -> str:
    """Return the command line that repeats the run."""
    words = ["tokenprune", "demo"] + ["--full"] * full
    words += [word for method in methods for word in ("--method", method)]
    words += [word for keep in budgets for word in ("--keep", str(keep))]
    words += ["--scenes", str(scenes)] if scenes is not None else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)
