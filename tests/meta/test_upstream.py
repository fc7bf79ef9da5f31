# SPDX-License-Identifier: Apache-2.0
"""How `make test-upstream` judges a run of transformers' suite, and its list of expected failures."""

import json
import re
import sys
import tarfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "upstream"
sys.path.insert(0, str(FOLDER))
try:
    import fetch
    import judge
    import modes
    import page
finally:
    sys.path.remove(str(FOLDER))

STOCK = {name: {"outcome": "passed"} for name in ("A::one", "A::two", "B::one")}
STOCK |= {"A::broken": {"outcome": "failed"}, "A::hub": {"outcome": "skipped"}}
LISTED = [judge.Entry("*::one", "whole-fastv", "a reason")]


def judged(mode="whole-fastv", entries=LISTED, **outcomes):
    found = STOCK | {
        name.replace("__", "::"): {"outcome": word, "why": "E"} for name, word in outcomes.items()
    }
    return judge.judge(mode, found, STOCK, entries)


def test_what_stock_passes_must_pass_but_for_the_list():
    verdict = judged(A__one="failed", B__one="failed")
    assert verdict.wrong == []
    assert verdict.expected == ["A::one: a reason", "B::one: a reason"]
    assert (verdict.passed, verdict.failed, verdict.skipped) == (1, 3, 1)


def test_an_unlisted_failure_is_wrong():
    assert judged(A__one="failed", B__one="failed", A__two="failed").wrong == [
        "A::two fails, and is not listed: E"
    ]


def test_a_listed_test_that_passes_is_wrong():
    assert judged(A__one="failed").wrong == ["B::one passes, but is listed: a reason"]


def test_an_entry_can_name_several_modes():
    entry = judge.Entry("A::*", "third-zoo-* whole-fastv", "a reason")
    assert [entry.covers("A::one", mode) for mode in ("third-zoo-exact", "whole-fastv", "third-fastv")] == [
        True,
        True,
        False,
    ]


def test_the_list_speaks_about_its_modes_only():
    assert judged("third-fastv", A__one="failed").wrong == ["A::one fails, and is not listed: E"]
    assert judged("stock", A__one="failed").wrong == []


def test_a_test_may_skip_itself_only_where_tokens_are_dropped():
    (line,) = judged(entries=[], A__one="skipped").wrong
    assert line == "A::one is skipped, and passes in stock: E"
    assert judged("third-fastv", [], A__one="skipped").wrong == []


def test_what_stock_does_not_pass_says_nothing():
    verdict = judged(entries=[], A__broken="passed", A__hub="failed")
    assert verdict.wrong == []


def test_a_test_that_was_not_run_is_wrong():
    found = {name: result for name, result in STOCK.items() if name != "A::two"}
    assert judge.judge("whole-fastv", found, STOCK, []).wrong == ["A::two passes in stock and was not run"]


def test_an_entry_that_matches_no_test_is_found():
    entries = [judge.Entry("C::*", "whole-*", "gone"), judge.Entry("C::*", "third-*", "not run")]
    assert judge.unused([*LISTED, *entries], {"stock": STOCK, "whole-fastv": STOCK}) == [entries[0]]


@pytest.mark.parametrize(("collected", "n", "fine"), [(2, 2, True), (3, 2, False), (0, 0, True)])
def test_a_record_of_a_run_that_ended_early_is_refused(tmp_path, collected, n, fine):
    lines = [{"collected": collected}, *({"test": f"A::{i}", "outcome": "passed"} for i in range(n))]
    file = tmp_path / "record.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    if fine:
        assert len(judge.read_record(file)) == n
        return
    with pytest.raises(ValueError, match="ended early: 2 of 3 tests"):
        judge.read_record(file)
    with pytest.raises(ValueError, match="0 of no tests"):
        judge.read_record(tmp_path / "none.jsonl")


def test_the_list_gives_reasons_for_modes_there_are_and_each_once():
    entries = judge.read_list()
    for entry in entries:
        assert re.fullmatch(r"[^\n|]{40,}\.", entry.reason), entry
        assert any(entry.covers(entry.test, mode) for mode in modes.MODES), entry
        assert not entry.is_of("stock")
    assert len({(entry.test, entry.mode) for entry in entries}) == len(entries)


def test_the_page_has_the_list():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.written(text) == text, "run `python tests/upstream/page.py`"
    assert all(f"`{mode}`" in text for mode in modes.MODES)


def test_what_keeps_everything_has_a_short_list():
    whole = [name for name in modes.MODES if name.startswith("whole-")]
    entries = judge.read_list()
    assert sum(any(entry.covers(entry.test, mode) for mode in whole) for entry in entries) <= 6


def test_the_usual_modes_are_stock_keeping_everything_and_a_third():
    kinds = [name.partition("-")[0] for name in modes.USUAL]
    assert kinds == ["stock", *["whole"] * 3, *["third"] * 3]


def test_of_the_distribution_only_tests_are_unpacked(tmp_path):
    source = tmp_path / "transformers-1.0"
    for name in ("tests/test_modeling_common.py", "src/tests/no.py", "setup.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    archive, folder = tmp_path / "made.tar.gz", tmp_path / "unpacked"
    with tarfile.open(archive, "w:gz") as made:
        made.add(source, "transformers-1.0")
    fetch.unpack(archive, folder)
    assert [path.name for path in folder.rglob("*.py")] == ["test_modeling_common.py"]
    assert not archive.exists()


def test_a_pip_that_gets_nothing_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: fetch.subprocess.CompletedProcess(a, 1))
    with pytest.raises(SystemExit, match=r"pip fetched no source distribution of transformers-\d"):
        fetch.suite(tmp_path / "new")


def test_fetched_tests_are_ignored_by_git():
    root = FOLDER.parents[1]
    assert fetch.FOLDER == root / ".upstream"
    assert ".upstream/" in (root / ".gitignore").read_text().splitlines()
