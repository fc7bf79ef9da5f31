# SPDX-License-Identifier: Apache-2.0
"""`tokenprune demo`: pruned against unpruned on pictures no training saw."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.files import check_folder, make_directory, write_text
from tokenprune_cli.console.options import Keeps, MethodNames, OnlyJson, Seed
from tokenprune_cli.model_name import model_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune_cli.demo.outcomes import Outcome
    from tokenprune_cli.demo.plan import Plan

RESULTS = "demo.json"


def demo(
    full: Annotated[bool, typer.Option("--full", help="All methods, more budgets and pictures.")] = False,
    method: MethodNames = None,
    keep: Keeps = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, max=100, help="How many pictures (about 13 questions each).")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where pictures and results go.", metavar="DIR")] = Path(
        "demo-output"
    ),
    model: Annotated[
        str | None, typer.Option(help="A model trained on these scenes; default: the embedded one.")
    ] = None,
    seed: Seed = 0,
    as_json: OnlyJson = False,
) -> None:
    """Answer questions about pictures with and without pruning, and show what was kept."""
    with plain_errors(), quietly():
        from rich.console import Console

        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.images import check_writable, save_image
        from tokenprune_cli.console.models import Device, load_model
        from tokenprune_cli.demo.plan import make_plan
        from tokenprune_cli.demo.record import record
        from tokenprune_cli.embedded import held_out_scenes
        from tokenprune_cli.evaluation import known_method

        methods = [known_method(name) for name in method or ()]
        budgets = [budget(text, None).keep or 0 for text in keep or ()]
        make_directory(output)
        check_folder(output / RESULTS)
        network, processor = load_model(model, Device.cpu)
        plan = make_plan(network, full=full, methods=methods, budgets=budgets, scenes=scenes)
        if not plan.methods:
            raise BadInputError("; ".join(plan.skipped.values()))
        for name in _pictures(plan):
            check_writable(output / name)
        drawn = list(held_out_scenes(plan.scenes))
        outcomes = _measure(network, processor, plan, drawn, seed)
        results = record(
            plan,
            outcomes,
            command=_command(full, methods, budgets, scenes, seed),
            model=model_name(model),
            seed=seed,
        )
        text = json.dumps({**results, "pictures": _pictures(plan)}, indent=2)
        try:
            if as_json:
                typer.echo(text)
            else:
                _show(results, by_layer=full)
        finally:  # when printing or writing fails the other is done
            write_text(output / RESULTS, text)
            for name, picture in _drawn(drawn, outcomes, plan).items():
                save_image(picture, output / name)
        if not as_json:
            files = ", ".join(str(output / name) for name in [*_pictures(plan), RESULTS])
            Console(highlight=False).print(f"saved: {files}", markup=False)


def _measure(network: Any, processor: Any, plan: Plan, drawn: Any, seed: int) -> list[Outcome]:
    """Answer every question under every setting, behind a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    from tokenprune_cli.demo.outcomes import Outcome
    from tokenprune_cli.evaluation import answer_batch, make_batches, mean_costs

    console = Console(stderr=True)
    batches = make_batches(processor, drawn)
    outcomes = []
    steps = [(setting, batch) for setting in plan.settings for batch in batches]
    turns = iter(track(steps, "answering", console=console, disable=not console.is_terminal))
    for setting in plan.settings:
        with setting.applied(network, seed) as handle:
            answers = [
                answered
                for _, batch in (next(turns) for _ in batches)
                for answered in answer_batch(network, processor, batch, handle, setting)
            ]
        costs = mean_costs(answers, network.config.text_config)
        outcomes.append(Outcome(setting, tuple(answers), costs))
    next(turns, None)  # lets the bar finish
    return outcomes


def _pictures(plan: Plan) -> list[str]:
    """Names of the pictures: one for each method and one for each budget."""
    budgets = [f"all-methods-{keep}-tokens.png" for keep in plan.budgets]
    return [*(f"{method}.png" for method in plan.methods), *budgets]


def _drawn(drawn: Any, outcomes: list[Outcome], plan: Plan) -> dict[str, Image]:
    """The pictures by name."""
    from tokenprune_cli.demo.illustrations import budget_sheet, method_sheet

    sheets = [method_sheet(drawn, outcomes, method) for method in plan.methods]
    sheets += [budget_sheet(drawn, outcomes, keep) for keep in plan.budgets]
    return dict(zip(_pictures(plan), sheets, strict=True))


def _show(results: dict[str, Any], by_layer: bool) -> None:
    from rich.console import Console

    from tokenprune_cli.demo.table import headline, terminal_table

    console = Console(highlight=False)
    console.print(headline(results))
    console.print(terminal_table(results, by_layer))
    console.print(
        "right %: exact matches ± standard error. KV kB: key-value cache of a prompt. MFLOP: arithmetic of "
        "the language model's prefill, by formula. Methods that cut inside the language model process more "
        "visual tokens before the cut than they keep."
    )
    console.print("Which method is best here (a difference below two standard errors counts as noise):")
    for verdict in results["verdicts"]:
        console.print(f"  {verdict['sentence']}")
    if results["closing_line"]:
        console.print(results["closing_line"])
    for method, reason in results["skipped"].items():
        console.print(f"left out: {method}: {reason}", markup=False)


def _command(full: bool, methods: list[str], budgets: list[int], scenes: int | None, seed: int) -> str:
    """Give the command line that repeats a run."""
    words = ["tokenprune", "demo"] + ["--full"] * full
    words += [word for method in methods for word in ("--method", method)]
    words += [word for keep in budgets for word in ("--keep", str(keep))]
    words += ["--scenes", str(scenes)] if scenes is not None else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)
