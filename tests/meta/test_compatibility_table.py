# SPDX-License-Identifier: Apache-2.0
"""docs/models.md says what really runs: every method is tried on every model."""

import compatibility


def test_the_page_says_what_runs():
    assert compatibility.written() == compatibility.PAGE.read_text(), "run `python tests/compatibility.py`"
