# SPDX-License-Identifier: Apache-2.0
"""Text of the site has a contrast of at least 4.5:1 to what is behind it, in both schemes (WCAG 2.2, AA)."""

import re
from pathlib import Path

import pytest
from contrast import contrast

CSS = (Path(__file__).parents[2] / "docs" / "stylesheets" / "site.css").read_text()
SCHEMES = {
    scheme: dict(re.findall(r"--md-([\w-]+): (#[0-9a-f]{6});", rules))
    for scheme, rules in re.findall(r'\[data-md-color-scheme="(\w+)"\] \{(.*?)\n\}', CSS, re.DOTALL)
}
PAGE = ("default-fg-color", "default-fg-color--light", "typeset-color", "typeset-a-color", "accent-fg-color")
CODE = ("code-fg-color", "typeset-a-color", "accent-fg-color")
HIGHLIGHTED = tuple(
    f"code-hl-{kind}-color"
    for kind in (
        *("number", "special", "function", "constant", "keyword", "string", "name", "operator"),
        *("punctuation", "comment", "generic", "variable"),
    )
)
HEADER = ("primary-bg-color", "primary-bg-color--light")
FOOTER = ("footer-fg-color", "footer-fg-color--light", "footer-fg-color--lighter")
ON = {
    "default-bg-color": PAGE,
    "code-bg-color": (*CODE, *HIGHLIGHTED),
    "primary-fg-color": HEADER,
    "footer-bg-color": FOOTER,
    "footer-bg-color--dark": FOOTER,
    "accent-fg-color": ("accent-bg-color",),
}
PAIRS = [(scheme, text, behind) for scheme in SCHEMES for behind in ON for text in ON[behind]]


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.005)


def test_both_schemes_set_the_same_colours():
    assert set(SCHEMES) == {"default", "slate"}
    assert set(SCHEMES["default"]) == set(SCHEMES["slate"])


@pytest.mark.parametrize(("scheme", "text", "behind"), PAIRS, ids=lambda part: part)
def test_text_can_be_read(scheme, text, behind):
    colours = SCHEMES[scheme]
    assert contrast(colours[text], colours[behind]) >= 4.5
