# SPDX-License-Identifier: Apache-2.0
"""The name of a model in records, and of files and directories for it."""

from __future__ import annotations

import os
import re

EMBEDDED = "embedded"
NAMELESS = "model"  # the root of a file system has no name
_NO_CHARACTERS = re.compile("[\ud800-\udfff]")  # bytes of a file name that no text file can hold


def model_name(model: str | None) -> str:
    """Return a name that is a valid name of a directory: not empty, not `.` or `..`, without separators.

    Parameters
    ----------
    model
        A directory, whose real name is returned if a link or `..` leads to it; or a hub id, whose last part
        is returned. None: the embedded model.
    """
    if model is None:
        return EMBEDDED
    try:
        name = os.path.basename(os.path.realpath(model))
    except (OSError, ValueError):  # the working directory was removed, or the name has a NUL
        name = ""
    return _NO_CHARACTERS.sub("_", name) or NAMELESS
