# SPDX-License-Identifier: Apache-2.0
"""The tested versions of vLLM; others are refused if pruning is configured."""

from __future__ import annotations

import re

from .errors import EngineRefusedError

LOWEST, BELOW = (0, 32), (0, 33)
RANGE = "vLLM >= {}.{}, < {}.{}".format(*LOWEST, *BELOW)


def is_supported(version: str) -> bool:
    """Whether a version such as "0.32.0+cpu" lies in the range."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and LOWEST <= (int(numbers[1]), int(numbers[2])) < BELOW


def check_version(version: str) -> None:
    """Refuse an untested version of vLLM.

    Raises
    ------
    EngineRefusedError
        With the range and what to do.
    """
    if not is_supported(version):
        raise EngineRefusedError(
            f"tokenprune: vLLM {version} was not checked with this release; it prunes inside {RANGE}. "
            f'Install one of these, or start without "tokenprune" in --hf-overrides'
        )
