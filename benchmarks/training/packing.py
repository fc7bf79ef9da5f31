# SPDX-License-Identifier: Apache-2.0
"""Pack all questions about an image into one row, after one copy of its visual tokens.

A row is  `<s> USER: <image>*N  q1 ASSISTANT: a1  q2 ASSISTANT: a2 ...`. A question attends only to the prefix
and itself, and its positions start right after the prefix, so it is computed exactly as if it were alone: the
same loss at about a tenth of the cost. The `</s>` after an answer is predicted, but is not an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenprune_embedded import Question

from benchmarks.scenes.patch_labels import N_PATCHES
from benchmarks.scenes.vocabulary import ASSISTANT, BOS, EOS, PAD, USER, WORD_ID, encode_words

N_BEFORE_IMAGE = 2  # <s> USER:
N_PREFIX = N_BEFORE_IMAGE + N_PATCHES
_NO_LABEL = -100


@dataclass(frozen=True)
class PackedQuestions:
    """B rows of T text tokens after a prefix of P tokens.

    `ids`, `labels`: (B, T), a label is the next token if that belongs to an answer, else -100;
    `question`: (B, T), the number of each token's question from 1, -1 for padding;
    `positions`: (B, P + T);
    `mask`: (B, 1, T, P + T), True where the text token (row) may attend.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    question: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    @property
    def is_answer(self) -> torch.Tensor:
        """Whether each token predicts a token of an answer, (B, T)."""
        return self.labels >= 0


def pack(rows: Sequence[Sequence[Question]]) -> PackedQuestions:
    """Pack the questions about B images."""
    packed = []
    for questions in rows:
        ids: list[int] = []
        labels: list[int] = []
        number: list[int] = []
        places: list[int] = []
        for i, question in enumerate(questions, start=1):
            prompt = [*encode_words(question.text), WORD_ID[ASSISTANT]]
            answer = encode_words(question.answer)
            n = len(prompt) + len(answer)
            ids += prompt + answer
            labels += [*[_NO_LABEL] * (len(prompt) - 1), *answer, WORD_ID[EOS]]
            number += [i] * n
            places += range(N_PREFIX, N_PREFIX + n)
        packed.append((ids, labels, number, places))
    longest = max(len(row[0]) for row in packed)

    def table(column: int, fill: int) -> torch.Tensor:
        return torch.tensor([row[column] + [fill] * (longest - len(row[column])) for row in packed])

    n_rows, length = len(packed), N_PREFIX + longest
    question_of = table(2, -1)
    owner = torch.cat([torch.zeros(n_rows, N_PREFIX, dtype=torch.long), question_of], 1)
    mask = (owner[:, None, :] == 0) | (question_of[:, :, None] == owner[:, None, :])
    mask &= torch.ones(longest, length, dtype=torch.bool).tril(N_PREFIX)
    positions = torch.cat([torch.arange(N_PREFIX).expand(n_rows, -1), table(3, 0)], 1)
    return PackedQuestions(table(0, WORD_ID[PAD]), table(1, _NO_LABEL), question_of, positions, mask[:, None])


def prefix_ids(n_rows: int) -> torch.Tensor:
    """Return the tokens before the image, (B, 2)."""
    return torch.tensor([WORD_ID[BOS], WORD_ID[USER]]).expand(n_rows, -1)
