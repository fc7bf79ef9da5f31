# SPDX-License-Identifier: Apache-2.0
"""Tables by hand, plots, and a report that needs nothing but itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from tokenprune_cli.compare.output import write_all
from tokenprune_cli.compare.plot import Point, Series, svg, ticks
from tokenprune_cli.compare.table import (
    CONVERSATION,
    QUESTIONS,
    conclusions,
    markdown_table,
    operations,
    terminal_table,
)

RECORD = Path(__file__).parents[3] / "docs/benchmarks/compare.json"


def score(value, of=None, unpruned=None, random=None):
    ends = lambda pair: None if pair is None else {"value": 0, "low": pair[0], "high": pair[1]}  # noqa: E731
    return {
        "value": value, "low": value, "high": value, "of_unpruned": of,
        "minus_unpruned": ends(unpruned), "minus_random": ends(random),
    }  # fmt: skip


def line(method, keep, scored, rows=36.0, saw=False, refused=None):
    found = {"method": method, "keep": keep, "protocol": "paper", "saw_the_question": saw, "refused": refused}
    if refused is None:
        found |= {
            "scores": {"exact_match": scored},
            "visual_rows": {"mean": rows},
            "flops": {"total": 5.19e8},
            "time_to_first_token_ms": {"median": 16.49},
        }
    return found


HAND = {
    "lines": [
        line(None, None, score(0.9625, 1.0), rows=144.0),
        line("fastv", 9, score(0.9, 0.935, (-0.0625, 0.0), (0.273, 0.4333)), rows=20.25, saw=True),
        line("pyramiddrop", 9, None, saw=True, refused="an average of 9 is not possible"),
    ],
    "leaders": [
        {"protocol": "paper", "keep": 9, "best": ["fastv"], "not_clearly_below": [], "clearly_below": ["x"]},
        {
            "protocol": "matched",
            "keep": 9,
            "best": ["x", "z"],
            "not_clearly_below": ["y"],
            "clearly_below": [],
        },
    ],
}


def test_a_table_by_hand():
    assert markdown_table(HAND, "paper", "exact_match", QUESTIONS).splitlines()[2:] == [
        "|  | unpruned | 144.0 | 96.2 | 100.0 |  |  | 519M | 16 |",
        "| 9 | fastv ? | 20.2 | 90.0 | 93.5 | -6.2..0.0 | +27.3..+43.3 | 519M | 16 |",
        "| 9 | pyramiddrop ? | no | [1] |  |  |  |  |  |",
    ]


@pytest.mark.parametrize(
    ("count", "said"),
    [(89.4e6, "89M"), (1.0514e9, "1.05G"), (51.44e9, "51.4G"), (8.3e12, "8.30T"), (999.9e9, "1.00T")],
)
def test_operations_are_written_short(count, said):
    assert operations(count) == said


def test_what_the_tables_say():
    assert conclusions(HAND, "paper") == ["keep 9: fastv is highest; all others are clearly below"]
    assert conclusions(HAND, "matched") == ["keep 9: x, z are highest; not clearly below: y"]


@pytest.mark.parametrize("layout", [QUESTIONS, CONVERSATION], ids=["questions", "conversation"])
@pytest.mark.parametrize("protocol", ["paper", "matched"])
def test_tables_fit_eighty_columns(layout, protocol):
    (model,) = json.loads(RECORD.read_text())["models"]
    console = Console(width=80)
    with console.capture() as caught:
        console.print(terminal_table(model, protocol, "exact_match", layout))
    text = caught.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert " no " in text or protocol == "paper"


def test_round_values_in_a_range():
    assert ticks(8, 144) == [10, 20, 50, 100]
    assert ticks(90, 1100) == [100, 200, 500, 1000]


def test_a_plot_by_hand():
    points = (Point(10, 50, 40, 60, "low"), Point(1000, 100, None, None, "high"))
    drawn = svg([Series("a<b", points), Series("base", points[1:], True, True)], "rows", "right, %", 90)
    assert drawn.count("<circle") == 3 and drawn.count("<rect") == 2  # points, and marks of the legend
    assert drawn.count('class="bar"') == 1 and drawn.count('class="level"') == 1
    assert "a&lt;b" in drawn and "<title>low</title>" in drawn
    (line,) = re.findall(r'<polyline points="([\d., -]+)" fill="none" stroke="#4269d0"/>', drawn)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line.split())
    assert y1 == 12 and y0 == 356  # 100 per cent at the top, 50 at the bottom
    assert 46 < x0 < 60 and 455 < x1 < 470


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.images, self.tags = [], 0, []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.images += tag == "img"
                if not value.startswith("data:image/png;base64,"):
                    self.fetched.append(value)


@pytest.fixture(scope="module")
def written(compared, questions, tmp_path_factory):
    output = tmp_path_factory.mktemp("written")
    (output / compared[0].record["name"]).mkdir()
    return write_all(output, "tokenprune compare", questions, [compared[0]]), output


def test_the_report_needs_nothing_but_itself(written, compared, questions):
    text = (written[1] / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert page.fetched == []
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    cells = {line["cell"] for line in compared[0].record["lines"] if line["refused"] is None}
    assert page.images == len(cells) * len(questions.examples)


def test_the_report_shows_questions_verdicts_and_what_cannot_be_reached(written, questions):
    text = (written[1] / "report.html").read_text()
    for i in questions.examples:
        assert questions.items[i].question.text in text
    assert "(wrong)</b>" in text
    assert "fastv (matched): not reachable" in text
    assert "the least is 12.9" in text
    assert text.count("<svg") == 4


def test_record_csv_and_plots_are_written(written, compared):
    (record, files), output = written
    assert json.loads((output / "compare.json").read_text()) == record
    rows = (output / "compare.csv").read_text().splitlines()
    assert len(rows) == 1 + len(compared[0].record["lines"])
    assert {len(row.split(",")) for row in rows[1:] if "not possible" not in row} == {18}
    drawn = [file for file in files if file.suffix == ".svg"]
    assert len(drawn) == 4 and all('xmlns="http://www.w3.org/2000/svg"' in f.read_text() for f in drawn)
