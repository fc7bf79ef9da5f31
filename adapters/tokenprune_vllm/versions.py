# SPDX-License-Identifier: Apache-2.0
"""The supported versions of vLLM; configuring pruning with any other raises an error."""

from __future__ import annotations

import re

from .errors import EngineRefusedError

LOWEST, BELOW = (0, 32), (0, 33)
RANGE = "vLLM >= {}.{}, < {}.{}".format(*LOWEST, *BELOW)


def is_supported(version: str) -> bool:
    """Return whether a version such as "0.32.0+cpu" is supported."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and LOWEST <= (int(numbers[1]), int(numbers[2])) < BELOW


def check_version(version: str) -> None:
    """Check that a version of vLLM is supported.

    Raises
    ------
    EngineRefusedError
        If it is not.
    """
    if not is_supported(version):
        raise EngineRefusedError(
            f"tokenprune: this release supports {RANGE}, not {version}; install a supported version, or "
            f'start without "tokenprune" in --hf-overrides'
        )
