# SPDX-License-Identifier: Apache-2.0
"""Checks of a pruned vision-language model: exactness, padded batches, the key-value cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune import Cut, ImageReport, PruningHandle, PruningReport
from tokenprune.testing.outputs import called, tensors_of
from tokenprune.trial import BATCH, CACHE, EXACTNESS, FAILED, Judge, PromiseRecord, Trial

from .. import stock
from ..facts import VisionLanguageFacts
from . import differences
from .by_hand import HandRun, images_of, run_by_hand
from .examples import text_tokens
from .observed import Answered, StockRow, answered
from .prompts import IDS, checked, joined_for, longer, rows_of

N_ANSWER = 4  # tokens of the answer: a prefill and three decoding steps


class VisionLanguageTrial(Trial):
    """Runs of one model on the rows of a batch, together and each alone.

    The answer's tokens are given beforehand, so that runs can be compared step by step.
    """

    def __init__(self, adapter: VisionLanguageFacts, inputs: Any) -> None:
        self.adapter, self.model = adapter, adapter.model
        self.inputs = checked(adapter, inputs)
        self.tokens = text_tokens(adapter.model.config, N_ANSWER, torch.Generator().manual_seed(0)).tolist()
        with self.undisturbed():
            rows = rows_of(adapter, self.inputs)
            self._n_given = len(rows)
            if len({row[IDS].shape[1] for row in rows}) == 1:
                rows.append(longer(adapter, rows[-1]))  # so that there is padding
            self.alone = rows
        self.batch = joined_for(adapter, rows)
        self._stock: list[StockRow] = []
        self._own: list[tuple[float, float]] = []

    @property
    def settings(self) -> Mapping[str, str]:
        """The attention implementation."""
        return {"attention": stock.implementation_of(self.adapter.language_model.config)}

    def outputs(self, brief: bool = False) -> list[Tensor]:
        """Logits of the prompt, and what leads to those of an answer by `generate`."""
        if not self._stock:
            self._observe()
        output = tensors_of(called(self.adapter.model, self.inputs))
        return output if brief else [*output, answered(self.adapter, self.batch, self.tokens).rows]

    def _observe(self) -> None:
        """Run the unpruned model, and once more by hand: what separates the two is not ours."""
        for inputs in self.alone:
            row = StockRow.observe(self.adapter, inputs, self.tokens)
            whole = run_by_hand(row, [], False, self.adapter.positions[0] == "contiguous")
            own = differences.of_rows(whole.rows, row.answer.rows)
            self._own.append((own, differences.of_caches(whole.layers, stock.layers_of(row.answer.kv))[0]))
            self._stock.append(row)

    def run(self, handle: PruningHandle) -> Judge:
        """Answer each row that was given alone, and all of them together."""
        given = self._stock[: self._n_given]
        alone = [_Pruned.run(self.adapter, handle, row, self.tokens) for row in given]
        together = answered(self.adapter, self.batch, self.tokens)
        return functools.partial(self._records, alone, together, handle.last)

    def _records(
        self, alone: list[_Pruned], together: Answered, report: PruningReport | None
    ) -> Iterator[PromiseRecord]:
        """Check what one method made of the rows."""
        name = alone[0].cut.method.name
        floor = differences.floor_of(together.rows.dtype)
        worst = max(own for own, _ in self._own)
        if not worst <= floor:
            note = (
                f"the unpruned language model, run by hand, is itself off by {worst:.1e} of its own answer, "
                "so that there is nothing to compare a pruned one with"
            )
            yield PromiseRecord(EXACTNESS, name, FAILED, worst, floor, note)
            return
        for one in alone:
            one.hand = one.by_hand(one.images)
        allowed, of_cache = (
            max(floor, differences.TIMES_OWN * max(own[i] for own in self._own)) for i in (0, 1)
        )
        yield self._exactness(name, alone, allowed)
        yield self._batch(name, alone, together, report, allowed)
        yield self._cache(name, alone, of_cache)

    def _exactness(self, name: str, alone: list[_Pruned], allowed: float) -> PromiseRecord:
        largest = max(differences.of_rows(one.answer.rows, one.hand.rows) for one in alone)
        return PromiseRecord.of(EXACTNESS, name, largest, allowed)

    def _cache(self, name: str, pruned: list[_Pruned], allowed: float) -> PromiseRecord:
        largest, kept, unpruned = 0.0, 0, 0
        for one in pruned:
            off, said = differences.of_caches(stock.layers_of(one.answer.kv), one.hand.layers)
            said = said or one.miscounted()
            if said:
                return PromiseRecord.failed(CACHE, name, said)
            largest = max(largest, off)
            if one.report is not None:
                kept, unpruned = kept + one.report.kv_bytes, unpruned + one.report.kv_bytes_unpruned
        return PromiseRecord.of(CACHE, name, largest, allowed, f"{kept} of {unpruned} bytes")

    def _batch(
        self,
        name: str,
        pruned: list[_Pruned],
        together: Answered,
        report: PruningReport | None,
        allowed: float,
    ) -> PromiseRecord:
        largest, other = 0.0, 0
        for number, row in enumerate(self._stock):
            images = _images(row, report, number)
            if number >= len(pruned):  # a row that only makes the batch a padded one
                wanted = pruned[0].by_hand(images, row).rows
                largest = max(largest, differences.of_rows(together.rows[number : number + 1], wanted))
                continue
            one = pruned[number]
            wanted = one.answer.rows
            if not _same_choice(images, one.images):
                # rounding decided: then the batch's row must be right for what it kept
                other += 1
                off = _scores_apart(images, one.images)
                largest = max(largest, off)
                wanted = one.by_hand(images).rows
            largest = max(largest, differences.of_rows(together.rows[number : number + 1], wanted))
        note = f"{other} of {len(pruned)} rows kept other tokens, by rounding" if other else ""
        return PromiseRecord.of(BATCH, name, largest, allowed, note)


class _Pruned:
    """One row alone, answered by the pruned model and by hand."""

    hand: HandRun  # once the model is no longer pruned

    def __init__(self, row: StockRow, answer: Answered, report: PruningReport | None, cut: Cut) -> None:
        self.row, self.answer, self.report, self.cut = row, answer, report, cut
        self.images = _images(row, report, 0)

    @classmethod
    def run(
        cls, adapter: VisionLanguageFacts, handle: PruningHandle, row: StockRow, tokens: list[int]
    ) -> _Pruned:
        """Answer the row."""
        answer = answered(adapter, row.inputs, tokens)
        return cls(row, answer, handle.last if row.spans else None, handle.cuts[0])

    def by_hand(self, images: list[ImageReport], row: StockRow | None = None) -> HandRun:
        """The reference for a choice, of this row or another."""
        in_decoder = self.cut.method.stage == "decoder"
        return run_by_hand(row or self.row, images, in_decoder, self.cut.closes_up)

    def miscounted(self) -> str:
        """What the report counts wrongly of the prefill; empty where it is right."""
        if self.report is None:
            return ""
        more = len(self.row.tokens) - 1
        kept = differences.bytes_of(self.hand.layers, [n - more for n in self.hand.entering])
        whole = self.row.inputs[IDS].shape[1]
        layers = stock.layers_of(self.row.answer.kv)
        unpruned = differences.bytes_of(layers, [whole] * len(layers))
        counted = self.report.kv_bytes, self.report.kv_bytes_unpruned
        if counted == (kept, unpruned):
            return ""
        return (
            f"the report counts {counted[0]} of {counted[1]} bytes of the cache, and {kept} of {unpruned} "
            "are stored"
        )


def _images(row: StockRow, report: PruningReport | None, number: int) -> list[ImageReport]:
    """Reports of a row's images, where it is the given one of its batch."""
    if report is None or not row.spans:
        return []
    return images_of(row, [image for image in report.images if image.row == number])


def _same_choice(ones: list[ImageReport], others: list[ImageReport]) -> bool:
    return all(
        one.selections.keys() == other.selections.keys()
        and all(torch.equal(one.selections[k].indices, other.selections[k].indices) for k in one.selections)
        for one, other in zip(ones, others, strict=True)
    )


def _scores_apart(ones: list[ImageReport], others: list[ImageReport]) -> float:
    """How far the scores of a first other choice are apart; infinite where not as many tokens were kept."""
    largest = 0.0
    for one, other in zip(ones, others, strict=True):
        if one.cuts != other.cuts:
            return math.inf
        for layer in one.selections:
            mine, theirs = one.selections[layer], other.selections[layer]
            if mine.scores is not None and theirs.scores is not None:
                largest = max(largest, differences.of_rows(mine.scores[None], theirs.scores[None]))
            if not torch.equal(mine.indices, theirs.indices):
                break  # later cuts found other tokens
    return largest
