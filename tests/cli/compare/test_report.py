# SPDX-License-Identifier: Apache-2.0
"""Tables by hand, plots, and a report that needs nothing but itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from tokenprune_cli.compare.looks import Look, looks
from tokenprune_cli.compare.output import write_all
from tokenprune_cli.compare.plots import _figure, plots
from tokenprune_cli.compare.table import CONVERSATION, QUESTIONS, conclusions, operations, table
from tokenprune_evaluation.plot_colors import COLORS, GREYS

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
    "questions": 541,
    "pictures": 40,
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
    assert table(HAND, "paper", "exact_match", QUESTIONS).rows == [
        ["unpruned", "144.0", "96.2", "100.0", "", "", "519M", "16"],
        ["keep 9"],
        ["fastv ?", "20.2", "90.0", "93.5", "-6.2..0.0", "+27.3..+43.3", "519M", "16"],
        ["pyramiddrop ?", "no", "[1]", "", "", "", "", ""],
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


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"questions": 29}, "29 questions"),
        ({"pictures": 29}, "29 pictures"),
        ({"questions": 29, "pictures": 2}, "29 questions, 2 pictures"),
    ],
)
def test_few_questions_or_pictures_have_no_verdict(counts, said):
    assert conclusions({**HAND, **counts}, "paper") == [
        f"too few to say which method is best: {said}; it takes at least 30"
    ]
    assert len(conclusions({**HAND, "questions": 30, "pictures": 30}, "paper")) == 1


@pytest.mark.parametrize("layout", [QUESTIONS, CONVERSATION], ids=["questions", "conversation"])
@pytest.mark.parametrize("protocol", ["paper", "matched"])
def test_tables_fit_eighty_columns(layout, protocol):
    (model,) = json.loads(RECORD.read_text())["models"]
    console = Console(width=80)
    with console.capture() as caught:
        console.print(table(model, protocol, "exact_match", layout).rich())
    text = caught.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert " no " in text or protocol == "paper"


def test_plots_by_hand():
    drawn = plots(HAND, "paper", "exact_match", looks([HAND]))
    assert list(drawn) == ["rows", "flops"]
    assert drawn == plots(HAND, "paper", "exact_match", looks([HAND]))  # byte for byte
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn["rows"])
    assert {"fastv", "20", "90", "100", "exact_match, %", "mean visual rows entering a layer"} <= set(texts)
    assert "pyramiddrop" not in texts  # it was refused
    assert "#4269d0" in drawn["rows"]


def test_a_method_looks_the_same_on_the_whole_page():
    first = {"lines": [line(None, None, None), line("zoo", 9, None), line("random", 9, None)]}
    names = ["fastv", "zoo", "stride", "random", "dart"]
    second = {"lines": [line(name, 9, None, saw=name == "fastv") for name in names]}
    assert looks([first, second]) == {
        "zoo": Look(COLORS[0], "o"),
        "fastv": Look(COLORS[1], "s", is_hollow=True),
        "dart": Look(COLORS[2], "^"),
        "random": Look(GREYS[0], "<", "--"),
        "stride": Look(GREYS[1], ">", "--"),
    }


def test_many_methods_look_different():
    many = {"lines": [line(f"method-{i}", 9, None) for i in range(112)]}
    assert len({(look.color, look.marker) for look in looks([many]).values()}) == 112


def test_points_and_intervals_stand_at_their_values():
    wide = {**score(0.8), "low": 0.7, "high": 0.85}
    lines = [
        line("fastv", 36, score(0.9), rows=40.0, saw=True),
        line("fastv", 9, wide, rows=20.25, saw=True),
        line("random", 9, {**score(0.5), "low": None, "high": None}, rows=9.0),
    ]
    page = {"lines": [line("zoo", 9, None), *lines]}
    (axes,) = _figure(lines, "rows", "exact_match", looks([page]), 96.25).axes
    level, fastv, random = axes.lines[0], *(container.lines for container in axes.containers)
    assert list(level.get_ydata()) == [96.25, 96.25] and level.get_linestyle() == ":"
    assert fastv[0].get_xydata().tolist() == [[20.25, 80.0], [40.0, 90.0]]
    assert fastv[2][0].get_segments()[0].ravel() == pytest.approx([20.25, 70.0, 20.25, 85.0])
    assert (fastv[0].get_marker(), fastv[0].get_linestyle(), fastv[0].get_color()) == ("s", "-", COLORS[1])
    assert (fastv[0].get_markerfacecolor(), random[0].get_markerfacecolor()) == ("white", GREYS[0])
    assert (random[0].get_marker(), random[0].get_linestyle(), random[0].get_color()) == ("<", "--", GREYS[0])
    assert random[2][0].get_segments()[0].tolist() == [[9.0, 50.0], [9.0, 50.0]]
    assert axes.get_ylim() == (48, 102)


def test_bars_end_inside_the_plot():
    low = {**score(0.6), "low": 0.38, "high": 0.7}
    high = {**score(0.99), "low": 0.9, "high": 1.0}
    lines = [line("zoo", 9, low, rows=9.0), line("fastv", 9, high, rows=36.0)]
    (axes,) = _figure(lines, "rows", "exact_match", looks([{"lines": lines}]), 96.25).axes
    bottom, top = axes.get_ylim()
    ends = [y for bars in axes.containers for (_, y) in bars.lines[2][0].get_segments()[0]]
    assert (bottom, top) == (28, 102) and bottom < min(ends) and max(ends) < top
    assert min(ends) == pytest.approx(38) and max(ends) == pytest.approx(100)


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
                if not value.startswith(("data:image/png;base64,", "#")):  # #: of the page itself
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
    assert set(re.findall(r'(\S+?)="https?:', text)) == {
        "xmlns",
        "xmlns:xlink",
    }  # names, which nobody fetches
    assert not re.search(r"url\((?!#)|@import", text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    cells = {line["cell"] for line in compared[0].record["lines"] if line["refused"] is None}
    assert page.images == len(cells) * len(questions.examples)


def test_the_report_shows_questions_verdicts_and_what_cannot_be_reached(written, questions):
    text = (written[1] / "report.html").read_text()
    for i in questions.examples:
        assert questions.items[i].question.text in text
    assert "(wrong)</b>" in text
    assert "fastv (matched): not reachable" in text
    assert "too few to say which method is best: 8 questions, 2 pictures; it takes at least 30" in text
    assert 'class="above"' not in text and 'class="below"' not in text
    assert "the least is 12.9" in text
    assert text.count("<svg") == 4
    assert text.count("<table>") == 4 and text.count('<tr class="refused"><td>fastv ?</td>') == 2
    assert "zoo-exact cannot" not in text and "&lt;svg" not in text


def test_the_same_comparison_gives_the_same_report(written, compared, questions, tmp_path):
    (tmp_path / compared[0].record["name"]).mkdir()
    write_all(tmp_path, "tokenprune compare", questions, [compared[0]])
    for name in ("report.html", "compare.csv"):
        assert (tmp_path / name).read_bytes() == (written[1] / name).read_bytes()


def test_record_csv_and_plots_are_written(written, compared):
    (record, files), output = written
    assert json.loads((output / "compare.json").read_text()) == record
    rows = (output / "compare.csv").read_text().splitlines()
    assert len(rows) == 1 + len(compared[0].record["lines"])
    assert {len(row.split(",")) for row in rows[1:] if "not possible" not in row} == {18}
    drawn = [file for file in files if file.suffix == ".svg"]
    assert len(drawn) == 4 and all('xmlns="http://www.w3.org/2000/svg"' in f.read_text() for f in drawn)
