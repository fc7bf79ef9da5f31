# SPDX-License-Identifier: Apache-2.0
"""What the committed studies showed on the embedded model, figures taken from the records.

What is said around the figures is not: read it again when a record is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


class Figures:
    """Figures of one record, as they are written."""

    def __init__(self, record: Record) -> None:
        self._cells = {(c["variant"], c["kept"]): c for c in record["cells"]}
        self._pairs = {(p["of"], p["against"], p["floor"]): p for p in record["rankings"]}

    def right(self, variant: str, kept: float) -> str:
        """Per cent right."""
        return f"{100 * self._cells[variant, kept]['score']['value']:.1f} %"

    def points(self, variant: str, kept: float) -> str:
        """Points above or below the base, without the sign."""
        return f"{100 * abs(self._cells[variant, kept]['above_base']['value']):.1f}"

    def rho(self, of: str, against: str, floor: float | None = None) -> str:
        """Mean rank correlation."""
        return f"{self._pairs[of, against, floor]['spearman']['mean']:.2f}"

    def common(self, of: str, against: str) -> str:
        """Share of the kept tokens in common."""
        return f"{100 * self._pairs[of, against, None]['kept_in_common']['mean']:.0f} %"

    def tokens(self, of: str, against: str, floor: float) -> str:
        """Tokens that reach the floor, mean over pictures."""
        return f"{self._pairs[of, against, floor]['tokens']:.0f}"


def layers(f: Figures) -> str:
    """Of the study of encoder layers."""
    return f"""\
The paper finds the projector best at every budget, with a lead that grows as budgets shrink (table D: +0.1,
+0.2 and +1.0 points over the best layer with 640, 320 and 160 of 2880 tokens; the first layer 6 points
behind at 160). Here no layer is clearly better than the projector, and with 18 tokens none is clearly
worse. With 9 tokens the layers part, but not by depth: layer 2 loses most ({f.right("layer 2", 9)} against
{f.right("projector", 9)}), layers 3 and 5 lose clearly, layers 1 and 4 nothing that can be told from noise.
Nudging the whole encoder, which costs two runs of the tower for each direction, does as the projector does.
So the projector is a fair and cheap place to measure; that it is the best place is not seen here. This
tower is small (5 layers against 24), and what goes to the projector is the output of layer 4: layer 5 comes
after it."""


def correlation(f: Figures) -> str:
    """Of the study of rankings."""
    whole = "whole encoder"
    return f"""\
Nudging the whole encoder ranks tokens much as the projector does: {f.rho(whole, "projector")} on average.
The paper reports 0.55 (MMMU) and 0.49 (POPE) on photographs, after tokens of low sensitivity were filtered
out at a threshold of 0.5 that it does not define further. With our reading of it, a min-max normalised
sensitivity of at least 0.5 at the projector, only {f.tokens(whole, "projector", 0.5)} of 144 tokens remain
on average, and among these nothing is left of the agreement ({f.rho(whole, "projector", 0.5)}): the two
agree on which tokens are sensitive at all, not on the order of those that are. Single layers differ: layer
1 agrees ({f.rho("layer 1", "projector")}), layer 2 leans the other way ({f.rho("layer 2", "projector")})."""


def sampling(f: Figures) -> str:
    """Of the study of directions and steps."""
    m64 = "m = 64, h = 0.01"
    return f"""\
More directions rank more like the closed form ({f.rho("m = 1, h = 0.01", "closed form")} with one,
{f.rho(m64, "closed form")} with the paper's 64, {f.rho("m = 256, h = 0.01", "closed form")} with 256), and
two banks of 64 agree less with each other ({f.rho("m = 64, another seed", m64)}) than the first does with
the closed form. The step hardly matters from 0.001 to 10 ({f.rho("m = 64, h = 10", "closed form")}); at
100, longer than the tower's rows themselves (about 87 here), the ranking is another
({f.rho("m = 64, h = 100", "closed form")}). Answers: 4 directions and more cannot be told from the closed
form, which fits the paper's remark that its method is robust to both. A single direction, whose ranking is
the least true, does better ({f.right("m = 1, h = 0.01", 18)} against {f.right("closed form", 18)} with 18
tokens); so does no ranking at all, see the next study."""


def combination(f: Figures) -> str:
    """Of the study of product, sum, either alone."""
    return f"""\
The paper's case for ZOO-Prune is that sensitivity and diversity together beat either alone. Against
sensitivity alone that holds, clearly, at every budget. Against diversity alone (DivPrune's choice) it does
not: with 18 tokens diversity alone is {f.points("diversity alone", 18)} points better, with 36 and 9 the
two cannot be told apart. The paper has ZOO-Prune 0.6 to 0.9 points ahead of DivPrune on LLaVA-1.5-7B (table
B). The sum does as well as the product, and better with 9 tokens ({f.points("sum", 9)} points). All of them
are far above chance. Why diversity is enough here was not studied; that the normalisation has a part in it
is seen in the next study."""


def normalise(f: Figures) -> str:
    """Of the study of normalisation."""
    return f"""\
Dividing by the largest score is clearly better than spreading scores over 0 to 1, at every budget: by
{f.points("minmax", 36)}, {f.points("minmax", 18)} and {f.points("minmax", 9)} points with 36, 18 and 9
tokens. Min-max gives the least sensitive token the weight 0 and stretches whatever differences there are;
the maximum keeps their proportions, so that nearly equal scores hardly count. With it ZOO-Prune cannot be
told from diversity alone with 36 and 18 tokens, and is {f.points("diversity alone", 9)} points ahead of it
with 9: with so few, sensitivity helps after all. The default stays min-max, which is the official code's;
`normalise="max"` is worth a try on a model of yours. The paper does not compare the two."""


def positions(f: Figures) -> str:
    """Of the study of positions."""
    return f"""\
Tokens that keep their positions answer {f.points("original", 18)} points better with 18 of 144 tokens,
which is clear; with 36 there is no difference, with 9 the interval begins at 0. The official
projector-stage code renumbers, since it prunes before there are positions, and so do we by default on
models with one-dimensional positions; `positions="original"` is the other choice. The paper does not
compare the two."""


def precision(f: Figures) -> str:
    """Of the study of half precision."""
    bfloat16, float16 = "differences in bfloat16", "differences in float16"
    return f"""\
A model in half precision, scored as we do it (features as they come, the projector's weights and all
differences in float32), ranks as in float32: {f.rho("model in bfloat16", "float32")}, with
{f.common("model in bfloat16", "float32")} (bfloat16) and {f.common("model in float16", "float32")}
(float16) of the kept tokens the same. Another bank of directions changes more
({f.rho("another seed", "float32")}). Differences taken in half precision, as the official code takes them,
keep little of the ranking: {f.rho(float16, "float32")} in float16, {f.rho(bfloat16, "float32")} in
bfloat16. Rows are long here (about 87) beside a step of 0.01, so that most of a step is rounded away; on
models with shorter rows less will be lost. For the answers this goes both ways: with 18 tokens, choosing by
float16's rounding is {f.points(float16, 18)} points *better* than by the true sensitivity; with 9, choosing
by bfloat16's is {f.points(bfloat16, 9)} points worse. The former fits the studies above, where less of the
sensitivity did better; it is no reason to compute it wrongly."""


FINDINGS = {
    f.__name__: f for f in (layers, correlation, sampling, combination, normalise, positions, precision)
}
