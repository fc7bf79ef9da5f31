# SPDX-License-Identifier: Apache-2.0
"""Which tiny models are checked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import tokenprune
from tokenprune.trial import Specimen
from tokenprune_cli.console.failures import BadInputError


def chosen_specimens(
    families: Sequence[str], attention: str | None
) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    """Choose the tiny models of these families, or of all without any.

    Returns
    -------
    list, list
        Names of an adapter and its specimen; names and reasons of specimens that cannot be checked.

    Raises
    ------
    BadInputError
        If no specimen has a given name, or one that is named cannot be checked.
    """
    registry = tokenprune.default_registry()
    found = [
        (name, specimen)
        for name in registry.names("adapter")
        for specimen in registry.find("adapter", name).specimens()
    ]
    known = [specimen.name for _, specimen in found]
    for family in families:
        if family not in known:
            close = difflib.get_close_matches(family, known)
            raise BadInputError(
                f"--family {family}: there is no tiny model of this name. "
                + (f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}")
            )
    pending, left_out = [], []
    for name, specimen in found:
        if families and specimen.name not in families:
            continue
        reason = _reason_to_leave_out(specimen, attention)
        if reason and families:
            raise BadInputError(f"--family {specimen.name}: {reason}")
        if reason:
            left_out.append({"name": specimen.name, "reason": reason})
        else:
            pending.append((name, specimen.name))
    return pending, left_out


def _reason_to_leave_out(specimen: Specimen, attention: str | None) -> str:
    if not specimen.is_installed:
        needed = " ".join(filter(None, [specimen.package, ".".join(map(str, specimen.least or ()))]))
        return f"{needed} is not installed: {specimen.remedy}"
    if attention is not None and specimen.package not in ("", "transformers"):
        return "its library has no attention implementations to choose from, so --attn does not apply"
    return ""
