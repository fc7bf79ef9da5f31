# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/speed.md: what `tokenprune bench` and `python -m benchmarks.official` measured."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune_cli.bench.models import visual_tokens
from tokenprune_cli.bench.presets import PRESETS
from tokenprune_cli.bench.record import BenchRecord
from tokenprune_cli.bench.table import full_table
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.records import from_dict
from tokenprune_evaluation.tables import Table
from tokenprune_evaluation.tower_costs import tower_flops

from benchmarks.official.sentences import official_lines

from .sources import NOT_MEASURED, Blocks, has_record, measured, read_record, render
from .speed_goals import goals, official_goals

SCREENSHOT = (29, 46)  # height and width in visual tokens


@dataclass(frozen=True)
class Cut:
    """Tokens kept, the block of the tower before which tokens are cut, and the tokens left from it on."""

    keep: int
    block: int
    left: int


SHARES = {  # by preset
    "cpu-tower": Cut(64, 4, 64),
    "llava-1.5-7b": Cut(64, 8, 64),
    "llava-next-7b": Cut(160, 8, 720),
    "cpu-tower-qwen": Cut(133, 4, 334),
    "qwen2.5-vl-7b": Cut(133, 8, 334),
}


def speed(preset: str) -> str:
    """Table, provenance and goals of one preset's record."""
    if not has_record(preset):
        return NOT_MEASURED
    record = read_record(preset)
    table = full_table(from_dict(BenchRecord, record))
    return render("speed", record=record, table=table.markdown(), goals=goals(record))


def choosing(name: str) -> str:
    """How long each method of a record takes to choose, and its share of the pruned prefill."""
    record = read_record(name)
    rows = [
        [
            run["name"],
            str(run["batch"]),
            f"{1e3 * run['seconds']['choosing']['median']:.0f}",
            f"{1e3 * run['seconds']['prefill']['median']:.0f}",
            f"{100 * run['seconds']['choosing']['median'] / run['seconds']['prefill']['median']:.1f} %",
        ]
        for run in record["runs"]
        if "apply" in run["seconds"]  # those that prune
    ]
    heads = ("method", "batch", "choosing ms", "prefill ms", "share")
    return f"{Table(heads, rows, align='lrrrr').markdown()}\n\n{measured(record)}"


def official() -> str:
    """The official algorithms beside ours."""
    record = read_record("official")
    return render("official", record=record, lines=official_lines(record), goals=official_goals(record))


def tower_shares() -> str:
    """What a cut before the language model leaves to do, and how much of it a cut inside the tower leaves."""
    rows = []
    for name, cut in SHARES.items():
        config, amount = PRESETS[name].config(), PRESETS[name].amount
        vision = config.vision_config
        packed = config.model_type.startswith("qwen")
        picture = SCREENSHOT if packed else (vision.image_size // vision.patch_size,) * 2
        tokens = visual_tokens(config, picture)
        tiles = tokens // (picture[0] * picture[1])
        language = prefill_flops(config.text_config, amount.text_tokens + cut.keep)
        whole = tower_flops(config, picture, tiles=tiles)
        short = tower_flops(config, picture, {cut.block: cut.left}, tiles)
        rows.append(
            [
                name,
                f"{cut.keep} of {tokens}",
                f"{whole / 1e12:.2f}",
                f"{language / 1e12:.2f}",
                f"{100 * whole / (whole + language):.0f}",
                f"{cut.left} @{cut.block}",
                f"{(short + language) / (whole + language):.2f}",
            ]
        )
    heads = [
        "sizes of",
        "kept",
        "tower, TFLOP",
        "language model, TFLOP",
        "tower, %",
        "cut to",
        "left of both",
    ]
    return Table(heads, rows).markdown()


BLOCKS: Blocks = {"choosing": choosing, "speed": speed, "tower-shares": tower_shares, "official": official}
