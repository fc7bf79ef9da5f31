# SPDX-License-Identifier: Apache-2.0
"""All questions of a picture in one row, behind one copy of its visual tokens.

A row is  `<s> USER: <image>*N  q1 ASSISTANT: a1  q2 ASSISTANT: a2 ...`. A question sees the prefix and itself
only, and its positions start right after the prefix, so it is computed exactly as if it stood alone: the same
loss for about a tenth of the work. The `</s>` behind an answer is predicted, but never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenprune_cli.embedded import Question

from benchmarks.scenes.patch_labels import N_PATCHES
from benchmarks.scenes.vocabulary import ASSISTANT, BOS, EOS, PAD, USER, WORD_ID, encode_words

N_BEFORE_IMAGE = 2  # <s> USER:
N_PREFIX = N_BEFORE_IMAGE + N_PATCHES
_NO_LABEL = -100


@dataclass(frozen=True)
class PackedQuestions:
    """B rows of T text tokens behind a prefix of P tokens.

    `ids`, `labels`: (B, T), a label being the next token where that belongs to an answer and -100 elsewhere;
    `question`: (B, T), the number of each token's question from 1 on, -1 for padding;
    `positions`: (B, P + T);
    `mask`: (B, 1, T, P + T), true where the text token (row) may look.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    question: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    @property
    def is_answer(self) -> torch.Tensor:
        """Tokens that predict a token of an answer, (B, T)."""
        return self.labels >= 0


def pack(rows: Sequence[Sequence[Question]]) -> PackedQuestions:
    """Pack the questions of B pictures."""
    packed = []
    for questions in rows:
        ids: list[int] = []
        labels: list[int] = []
        number: list[int] = []
        places: list[int] = []
        for i, question in enumerate(questions, start=1):
            asked = [*encode_words(question.text), WORD_ID[ASSISTANT]]
            answer = encode_words(question.answer)
            n = len(asked) + len(answer)
            ids += asked + answer
            labels += [*[_NO_LABEL] * (len(asked) - 1), *answer, WORD_ID[EOS]]
            number += [i] * n
            places += range(N_PREFIX, N_PREFIX + n)
        packed.append((ids, labels, number, places))
    longest = max(len(row[0]) for row in packed)

    def table(column: int, fill: int) -> torch.Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in packed])

    n_rows, length = len(packed), N_PREFIX + longest
    asked_in = table(2, -1)
    owner = torch.cat([torch.zeros(n_rows, N_PREFIX, dtype=torch.long), asked_in], 1)
    mask = (owner[:, None, :] == 0) | (asked_in[:, :, None] == owner[:, None, :])
    mask &= torch.ones(longest, length, dtype=torch.bool).tril(N_PREFIX)
    positions = torch.cat([torch.arange(N_PREFIX).expand(n_rows, -1), table(3, 0)], 1)
    return PackedQuestions(table(0, WORD_ID[PAD]), table(1, _NO_LABEL), asked_in, positions, mask[:, None])


def prefix_ids(n_rows: int) -> torch.Tensor:
    """Tokens before the picture, (B, 2)."""
    return torch.tensor([WORD_ID[BOS], WORD_ID[USER]]).expand(n_rows, -1)
