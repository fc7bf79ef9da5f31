# SPDX-License-Identifier: Apache-2.0
"""What a model is called: in records, and where a file or a folder is named after it."""

from __future__ import annotations

import os
import re

EMBEDDED = "embedded"
NAMELESS = "model"  # the root of a file system has no name
_NO_CHARACTERS = re.compile("[\ud800-\udfff]")  # bytes of a file name that no text file can hold


def model_name(given: str | None) -> str:
    """Name of one folder, never empty, `.` or `..`, and without a separator.

    Parameters
    ----------
    given
        A directory, called by its real name wherever a link or `..` leads to it; or a hub id, whose last
        part is taken. None: the embedded model.
    """
    if given is None:
        return EMBEDDED
    try:
        name = os.path.basename(os.path.realpath(given))
    except (OSError, ValueError):  # the working directory is gone, or a NUL
        name = ""
    return _NO_CHARACTERS.sub("_", name) or NAMELESS
