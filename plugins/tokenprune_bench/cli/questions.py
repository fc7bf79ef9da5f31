# SPDX-License-Identifier: Apache-2.0
"""The questions a command is to ask, from a file or about the embedded scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune_bench.cli.failures import BadInputError

if TYPE_CHECKING:
    from tokenprune_bench.compare.question_set import QuestionSet
    from tokenprune_bench.compare.workers import Source


def loaded_questions(source: Source) -> QuestionSet:
    """Read or draw the questions of a source.

    Raises
    ------
    BadInputError
        When a question file cannot be used.
    """
    from tokenprune_bench.evaluation.question_file import QuestionFileError

    try:
        return source.load_questions()
    except QuestionFileError as error:
        raise BadInputError(str(error)) from None
