# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/methods/duplicates.md: what `python -m benchmarks.duplicates` counted."""

from __future__ import annotations

from tokenprune_evaluation.records import from_dict
from tokenprune_evaluation.tables import Table

from benchmarks.duplicates.__main__ import Record
from benchmarks.duplicates.measure import TOLERANCES

from .sources import Blocks, measured, read_record


def table() -> str:
    """A row for each picture and side of a token."""
    record = read_record("duplicates")
    limits = ["" if tolerance == 0 else f", tolerance {tolerance:g}" for tolerance in TOLERANCES]
    heads = ["picture", "pixels", "token", "tokens", "one colour", "distinct"]
    heads += [f"kept{limit}" for limit in limits] + [f"ms{limit}" for limit in limits]
    rows = []
    for each in from_dict(Record, record).pictures:
        shares = [
            count / each.tokens for count in (each.plain, each.distinct, *(k.tokens for k in each.kept))
        ]
        rows.append(
            [
                *(each.picture, f"{each.width} x {each.height}", str(each.side), str(each.tokens)),
                *(f"{share:.0%}".replace("%", " %") for share in shares),
                *(f"{1e3 * k.seconds:.0f}" for k in each.kept),
            ]
        )
    return f"{Table(heads, rows, align='ll' + 'r' * (len(heads) - 2)).markdown()}\n\n{measured(record)}"


def towers() -> str:
    """A row for each picture on which a tower was timed."""
    heads = ["picture", "tokens", "kept", "whole tower, s", "time without duplicates"]
    rows = [
        [
            *(each.picture, str(each.tokens), f"{each.kept / each.tokens:.0%}".replace("%", " %")),
            *(f"{each.seconds:.1f}", f"{each.share:.2f}"),
        ]
        for each in from_dict(Record, read_record("duplicates")).towers
    ]
    return Table(heads, rows, align="lrrrr").markdown()


def kept(picture: str) -> str:
    """Least and greatest share of the tokens of a picture that are kept exactly, as in "28 to 33 %"."""
    found = from_dict(Record, read_record("duplicates")).pictures
    shares = [100 * each.kept[0].tokens / each.tokens for each in found if each.picture.startswith(picture)]
    if not shares:
        raise ValueError(f"the record has no picture {picture!r}")
    low, high = round(min(shares)), round(max(shares))
    return f"{low} %" if low == high else f"{low} to {high} %"


BLOCKS: Blocks = {"duplicates": table, "duplicates-kept": kept, "duplicates-towers": towers}
