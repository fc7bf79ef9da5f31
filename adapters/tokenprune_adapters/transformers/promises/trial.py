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
from .masked_tower import masked_tower
from .observed import Answered, StockRow, answered
from .prompts import IDS, checked, joined_for, longer, rows_of
from .trimmed import run_trimmed

N_ANSWER = 4  # tokens of the answer: a prefill and three decoding steps


class VisionLanguageTrial(Trial):
    """Runs one model on the rows of a batch, together and each alone.

    The answer's tokens are fixed, so that runs can be compared step by step.
    """

    def __init__(self, adapter: VisionLanguageFacts, inputs: Any) -> None:
        self.adapter, self.model = adapter, adapter.model
        self.inputs = checked(adapter, inputs)
        self.tokens = text_tokens(adapter.model.config, N_ANSWER, torch.Generator().manual_seed(0)).tolist()
        with self.undisturbed():
            rows = rows_of(adapter, self.inputs)
            self._n_inputs = len(rows)
            if len({row[IDS].shape[1] for row in rows}) == 1:
                rows.append(longer(adapter, rows[-1]))  # to have padding
            self.alone = rows
        self.batch = joined_for(adapter, rows)
        self._stock: list[StockRow] = []
        self._unpruned_differences: list[tuple[float, float]] = []  # of rows, and of the cache

    @property
    def settings(self) -> Mapping[str, str]:
        """The attention implementation."""
        return {"attention": stock.implementation_of(self.adapter.language_model.config)}

    def outputs(self, brief: bool = False) -> list[Tensor]:
        """Logits of the prompt, and the rows from which `generate` computes those of the answer."""
        if not self._stock:
            self._observe()
        output = tensors_of(called(self.adapter.model, self.inputs))
        return output if brief else [*output, answered(self.adapter, self.batch, self.tokens).rows]

    def _observe(self) -> None:
        """Run the unpruned model and its reference; their difference is not caused by pruning."""
        for inputs in self.alone:
            row = StockRow.observe(self.adapter, inputs, self.tokens)
            whole = run_by_hand(row, [], False, self.adapter.positions[0] == "contiguous")
            of_rows = differences.of_rows(whole.rows, row.answer.rows)
            of_cache, _ = differences.of_caches(whole.layers, stock.layers_of(row.answer.kv))
            self._unpruned_differences.append((of_rows, of_cache))
            self._stock.append(row)

    def run(self, handle: PruningHandle) -> Judge:
        """Run each input row alone, and all rows together."""
        cuts_tower = any(cut.method.stage == "vision" for cut in handle.cuts)
        rows = self._stock if cuts_tower else self._stock[: self._n_inputs]
        alone = [_Pruned.run(self.adapter, handle, row, self.tokens) for row in rows]
        together = answered(self.adapter, self.batch, self.tokens)
        return functools.partial(self._records, alone, together, handle.last)

    def _records(
        self, alone: list[_Pruned], together: Answered, report: PruningReport | None
    ) -> Iterator[PromiseRecord]:
        """Compare the pruned runs of one method with their references."""
        name = alone[0].cut.method.name
        floor = differences.floor_of(together.rows.dtype)
        worst = max(of_rows for of_rows, _ in self._unpruned_differences)
        if not worst <= floor:
            note = (
                f"the reference run of the unpruned language model differs by {worst:.1e} from the model's "
                "own answer, so there is nothing to compare a pruned one with"
            )
            yield PromiseRecord(EXACTNESS, name, FAILED, worst, floor, note)
            return
        for pruned in alone:
            pruned.hand = pruned.by_hand(pruned.images)
        allowed, of_cache = (
            max(floor, differences.TIMES_OWN * max(pair[i] for pair in self._unpruned_differences))
            for i in (0, 1)
        )
        yield self._exactness(name, alone, allowed)
        yield self._batch(name, alone, together, report, allowed)
        yield self._cache(name, alone, of_cache)

    def _exactness(self, name: str, alone: list[_Pruned], allowed: float) -> PromiseRecord:
        largest = max(differences.of_rows(pruned.answer.rows, pruned.hand.rows) for pruned in alone)
        return PromiseRecord.of(EXACTNESS, name, largest, allowed)

    def _cache(self, name: str, pruned: list[_Pruned], allowed: float) -> PromiseRecord:
        largest, kept, unpruned = 0.0, 0, 0
        for row in pruned:
            difference, note = differences.of_caches(stock.layers_of(row.answer.kv), row.hand.layers)
            note = note or row.miscounted()
            if note:
                return PromiseRecord.failed(CACHE, name, note)
            largest = max(largest, difference)
            if row.report is not None:
                kept, unpruned = kept + row.report.kv_bytes, unpruned + row.report.kv_bytes_unpruned
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
            if number >= len(pruned):  # the row that was added for padding
                wanted = pruned[0].by_hand(images, row).rows
                largest = max(largest, differences.of_rows(together.rows[number : number + 1], wanted))
                continue
            alone = pruned[number]
            wanted = alone.answer.rows
            if not _same_choice(images, alone.images):
                # rounding changed the choice: the batch's row must be correct for the tokens it kept
                other += 1
                if alone.cuts_tower:
                    continue  # its tower kept other tokens too, of which there is no run
                largest = max(largest, _scores_apart(images, alone.images))
                wanted = alone.by_hand(images).rows
            largest = max(largest, differences.of_rows(together.rows[number : number + 1], wanted))
        note = f"{other} of {len(pruned)} rows kept other tokens, by rounding" if other else ""
        return PromiseRecord.of(BATCH, name, largest, allowed, note)


class _Pruned:
    """One row, run alone through the pruned model and through the reference."""

    hand: HandRun  # set once the pruning is removed

    @property
    def cuts_tower(self) -> bool:
        """Whether tokens were cut inside the vision tower."""
        return self.report is not None and any(outcome.states for outcome in self.report.towers)

    def __init__(self, row: StockRow, answer: Answered, report: PruningReport | None, cut: Cut) -> None:
        self.row, self.answer, self.report, self.cut = row, answer, report, cut
        self.images = _images(row, report, 0)
        self._masked: StockRow | None = None

    @classmethod
    def run(
        cls, adapter: VisionLanguageFacts, handle: PruningHandle, row: StockRow, tokens: list[int]
    ) -> _Pruned:
        """Run the pruned model on the row."""
        answer = answered(adapter, row.inputs, tokens)
        return cls(row, answer, handle.last if row.spans else None, handle.cuts[0])

    def by_hand(self, images: list[ImageReport], row: StockRow | None = None) -> HandRun:
        """Run the reference for a selection, on this row or another."""
        method = self.cut.method
        if method.trim_early_cache:
            return run_trimmed(row or self.row, images, self.cut.closes_up)
        in_decoder = method.stage == "decoder"
        return run_by_hand(row or self._seen_by_language(), images, in_decoder, self.cut.closes_up)

    def _seen_by_language(self) -> StockRow:
        """The row as its language model gets it: of a tower that was cut, with masks in place of the cut."""
        towers = () if self.report is None else self.report.towers
        if not any(outcome.states for outcome in towers):
            return self.row
        if self._masked is None:
            with masked_tower(self.row.adapter, towers):
                self._masked = StockRow.observe(self.row.adapter, self.row.inputs, self.row.tokens)
        return self._masked

    def miscounted(self) -> str:
        """Describe a wrong byte count in the report of the prefill; empty if the counts are right."""
        if self.report is None:
            return ""
        more = len(self.row.tokens) - 1
        kept = differences.bytes_of(self.hand.layers, [n - more for n in self.hand.entering])
        whole = self.row.inputs[IDS].shape[1]
        layers = stock.layers_of(self.row.answer.kv)
        unpruned = differences.bytes_of(layers, [whole] * len(layers))
        counted = self.report.kv_bytes, self.report.kv_bytes_unpruned
        trimmed = differences.bytes_of(layers, self.hand.trimmed or [0] * len(layers))
        if counted == (kept, unpruned) and self.report.kv_bytes_trimmed == trimmed:
            return ""
        if self.report.kv_bytes_trimmed != trimmed:
            return f"the report counts {self.report.kv_bytes_trimmed} bytes trimmed, and {trimmed} were"
        return (
            f"the report counts {counted[0]} of {counted[1]} bytes of the cache, and {kept} of {unpruned} "
            "are stored"
        )


def _images(row: StockRow, report: PruningReport | None, number: int) -> list[ImageReport]:
    """Reports of a row's images; `number` is its index in the reported batch."""
    if report is None or not row.spans:
        return []
    return images_of(row, [image for image in report.images if image.row == number])


def _same_choice(images: list[ImageReport], others: list[ImageReport]) -> bool:
    return all(
        image.selections.keys() == other.selections.keys()
        and all(
            torch.equal(image.selections[k].indices, other.selections[k].indices) for k in image.selections
        )
        for image, other in zip(images, others, strict=True)
    )


def _scores_apart(images: list[ImageReport], others: list[ImageReport]) -> float:
    """Largest score difference up to the first differing cut; infinite if the numbers kept differ."""
    largest = 0.0
    for image, other in zip(images, others, strict=True):
        if image.cuts != other.cuts:
            return math.inf
        for layer in image.selections:
            first, second = image.selections[layer], other.selections[layer]
            if first.scores is not None and second.scores is not None:
                largest = max(largest, differences.of_rows(first.scores[None], second.scores[None]))
            if not torch.equal(first.indices, second.indices):
                break  # later cuts start from different tokens
    return largest
