# SPDX-License-Identifier: Apache-2.0
"""Pictures of pages and screens, and the count of their duplicate tokens."""

import json

import numpy as np
import pytest
import torch
from blocks import duplicates as blocks
from PIL import Image
from tokenprune_evaluation.records import from_dict

from benchmarks.duplicates import __main__ as program
from benchmarks.duplicates import measure, pictures


@pytest.mark.parametrize("draw", [pictures.page, pictures.screen])
def test_pictures_are_drawn_alike_each_time_and_by_seed(draw):
    first, again, other = draw(400, 560), draw(400, 560), draw(400, 560, seed=1)
    assert first.size == (400, 560) and first.mode == "RGB"
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))


def test_a_token_has_the_pixels_of_its_place_in_the_picture():
    shades = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    picture = Image.fromarray(shades.repeat(28, 0).repeat(28, 1)).convert("RGB")
    tokens = measure.tokens_of(picture.resize((84, 56)), 28)
    assert tokens.layout.grid == (1, 2, 3)
    red = tokens.signal("pixels").view(6, 4, 3, -1)[:, :, 0]
    assert torch.equal(red, red[:, :1, :1].expand_as(red))  # one shade a token
    assert (red[:, 0, 0].diff() > 0).all()


def test_counts_by_hand():
    """Two lines of three tokens of 28 pixels: white, white, ruled; white, white, white."""
    picture = Image.new("RGB", (84, 56), "white")
    picture.paste("black", (60, 10, 80, 12))
    found = measure.counted("ruled", picture, 28, repeats=2)
    assert (found.tokens, found.plain, found.distinct) == (6, 5, 2)
    # the ruled one, the first, and the last: white, where the upper one is predicted
    assert [(kept.tolerance, kept.tokens) for kept in found.kept] == [(0.0, 3), (0.1, 3)]
    assert all(kept.seconds > 0 for kept in found.kept)


def test_the_program_writes_a_record_that_the_page_can_show(tmp_path, monkeypatch):
    small = {"page": pictures.page(280, 392), "photograph": pictures.photograph().crop((0, 0, 168, 168))}
    monkeypatch.setattr(program, "pictures", lambda: small)
    n_threads = torch.get_num_threads()
    program.main(["--out", str(tmp_path / "record.json")])
    assert torch.get_num_threads() == n_threads
    written = json.loads((tmp_path / "record.json").read_text())
    record = from_dict(program.Record, written)
    assert [(each.picture, each.tokens) for each in record.towers] == [("page", 140), ("photograph", 36)]
    assert record.towers[0].kept == record.pictures[0].kept[0].tokens < 140
    assert record.towers[1].kept == 36
    assert all(each.seconds > 0 and each.share > 0 for each in record.towers)
    assert record.machine.threads == 1
    assert [(each.picture, each.side, each.tokens) for each in record.pictures][::2] == [
        ("page", 28, 140),
        ("photograph", 28, 36),
    ]
    assert record.pictures[0].kept[0].tokens < 140
    monkeypatch.setattr(blocks, "read_record", lambda name: written)
    assert blocks.table().count("\n| p") == 4
    assert blocks.kept("photograph") == "100 %"
    assert "| photograph | 36 | 100 % |" in blocks.towers()
    with pytest.raises(ValueError, match="the record has no picture 'map'"):
        blocks.kept("map")


def test_the_program_writes_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "pictures", lambda: {"page, JPEG 90": pictures.page(280, 392)})
    program.main(["--draw", str(tmp_path / "drawn")])
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["page-JPEG-90.png"]


def test_a_place_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(["--out", str(tmp_path / "nowhere" / "record.json")])
    assert "is not a directory; run this in the root of a checkout" in capsys.readouterr().err
