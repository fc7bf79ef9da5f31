# SPDX-License-Identifier: Apache-2.0
"""Every Python block of the documentation runs, page by page, unless the page says why it cannot."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)")
SKIP = re.compile(r"<!-- not executed(?P<reason>.*)-->\s*$")


def blocks(page):
    """Yield (line number, source, line above the fence) of each Python block."""
    lines = page.read_text().splitlines()
    start = language = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence and start is None:
            start, language = number, fence[1]
        elif fence:
            if language == "python":
                above = lines[start - 1] if start else ""
                yield start + 2, "\n".join(lines[start + 1 : number]) + "\n", above
            start = None
    assert start is None, f"{page.name}:{start + 1}: this block is not closed"


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page_" + re.sub(r"\W", "_", name_of(page)))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, source, above in blocks(page):
        if not SKIP.match(above.strip()):
            exec(compile("\n" * (line - 1) + source, str(page), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_is_not_executed_says_why(page):
    for line, _, above in blocks(page):
        skipped = SKIP.match(above.strip())
        if skipped:
            reason = skipped["reason"].lstrip(": ").strip()
            assert len(reason.split()) >= 3, f"{name_of(page)}:{line}: say why this block is not executed"


def test_most_blocks_are_executed():
    skipped = [bool(SKIP.match(above.strip())) for page in PAGES for _, _, above in blocks(page)]
    assert skipped.count(False) > 3 * skipped.count(True)


def test_an_unclosed_block_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nx = 1\n")
    with pytest.raises(AssertionError, match=r"page\.md:2: this block is not closed"):
        list(blocks(page))
