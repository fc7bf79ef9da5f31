# SPDX-License-Identifier: Apache-2.0
"""Select the rows of one image, part by part where it has tiles, or of a stack of equal images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import Budget
from .cover_rows import shortened
from .covering import Cover
from .errors import IncompatibleError
from .pipeline import Adjust, Pipeline
from .scope import candidates, cover_slices, join, kept_newlines, share_out
from .selection import Selection
from .stack import choose_parts, selections_of
from .tokens import Layout, VisualTokens


@dataclass(frozen=True)
class ImageSelector:
    """The steps of a method with its rules for tiles and newline tokens; see `Method` for these."""

    pipeline: Pipeline
    scope: str
    newlines: str

    def rows(self, layout: Layout, budget: Budget) -> int:
        """Return the number of rows kept of an image, or if it depends on the picture, the most."""
        if budget.rows(len(layout)) >= len(layout):
            return len(layout)
        shares = share_out(layout, self.scope, self.newlines, budget)
        return sum(share.rows for share in shares) + len(kept_newlines(layout, self.newlines))

    def select(self, tokens: VisualTokens, budget: Budget) -> Selection:
        """Select the rows of an image; without a rule also of a stack."""
        pipeline, layout = self.pipeline, tokens.layout
        for part in pipeline.parts:
            if tokens.is_batch and not part.stacks:
                raise IncompatibleError(
                    f"the {part.kind} {part.name!r} takes one image at a time, (N, D), not a stack"
                )
        if tokens.is_batch and budget.rule is not None:
            raise IncompatibleError(
                f"{budget} may keep different numbers of equal images: pass one image, (N, D), not a stack"
            )
        is_open = pipeline.selector.adaptive or budget.rule is not None
        keeps_all = budget.rows(len(tokens)) >= len(tokens) and not is_open
        if not keeps_all and (layout.tiles is not None or layout.newlines is not None):
            return self._select_parts(tokens, budget)
        scores, rows = pipeline.score(tokens), min(self.rows(layout, budget), len(tokens))
        adjust: Adjust | None = None
        if not tokens.is_batch and layout.grid[0] > 1:

            def best_of(slots: Tensor) -> int:
                slice_scores = None if scores is None else scores[slots.to(scores.device)]
                return int(pipeline.select(tokens.part(slots), slice_scores, 1).indices)

            def adjust(kept: Selection) -> Selection:
                return cover_slices(kept, layout, best_of)

        if budget.rule is None:
            return pipeline.choose(tokens, scores, rows, adjust)
        pipeline.check_rule(budget.rule, scores is not None)
        slices = 1 if adjust is None else min(layout.grid[0], rows)  # each keeps a row
        least = max(slices, budget.least(len(tokens)))
        chosen = pipeline.choose(tokens, scores, rows)
        return shortened(chosen, tokens.features, budget.rule.radius, least, adjust)

    def _select_parts(self, tokens: VisualTokens, budget: Budget) -> Selection:
        """Select within each tile, or among all tokens but newlines."""
        if tokens.is_batch:
            raise IncompatibleError("tiled images must be passed one at a time, (N, D), not as a stack")
        pipeline, layout, rule = self.pipeline, tokens.layout, budget.rule
        shares = share_out(layout, self.scope, self.newlines, budget)
        scores = pipeline.score(tokens.among(torch.cat([share.slots for share in shares])))
        sizes = [len(share.slots) for share in shares]
        part_scores = [None] * len(shares) if scores is None else torch.split(scores, sizes)
        parts = [tokens.part(share.slots, share.tile) for share in shares]
        if rule is not None:
            pipeline.check_rule(rule, scores is not None)
        choosers, keeps = pipeline.parts[1:], [share.rows for share in shares]
        chosen = choose_parts(pipeline.choose, choosers, parts, part_scores, keeps)
        if rule is not None:
            chosen = [
                shortened(selection, part.features, rule.radius, share.least)
                for selection, part, share in zip(chosen, parts, shares, strict=True)
            ]
        joined = join(shares, chosen, kept_newlines(layout, self.newlines), tokens.features)
        if rule is not None and sum(sizes) < len(candidates(layout, self.newlines)):
            return dataclasses.replace(joined, capped=True)  # a tile has no share of the limit
        return joined

    def select_stack(self, tokens: VisualTokens, rule: Cover, budget: Budget) -> list[Selection]:
        """Select the rows of each of a stack of plain images by a rule; their numbers may differ."""
        n, scorer = len(tokens), self.pipeline.scorer
        self.pipeline.check_rule(rule, scorer.gives_scores)
        picks = self.select(tokens, Budget(budget.rows(n)))
        self.pipeline.check_rule(rule, picks.scores is not None)  # a scorer may give none only sometimes
        pairs = zip(selections_of(picks), tokens.features, strict=True)
        return [shortened(of_image, rows, rule.radius, budget.least(n)) for of_image, rows in pairs]
