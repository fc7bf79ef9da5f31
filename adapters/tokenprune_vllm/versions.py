# SPDX-License-Identifier: Apache-2.0
"""The tested versions of vLLM. Configuring pruning with an older one raises an error.

A newer one is accepted if it has all names in `stock.py`, which are looked up when an engine starts; the log
then contains a warning.
"""

from __future__ import annotations

import logging
import re

from .errors import EngineRefusedError

logger = logging.getLogger("vllm.tokenprune")

TESTED = (0, 32), (0, 33)  # the oldest and the newest
RANGE = "vLLM {}.{} to {}.{}".format(*TESTED[0], *TESTED[1])


def _minor(version: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version such as "0.32.0+cpu", or None if it has none."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))


def is_too_old(version: str) -> bool:
    """Return whether a version is older than the oldest tested one."""
    minor = _minor(version)
    return minor is not None and minor < TESTED[0]


def check_version(version: str) -> None:
    """Check that a version of vLLM is not older than the oldest tested one.

    Raises
    ------
    EngineRefusedError
        If it is.
    """
    if is_too_old(version):
        raise EngineRefusedError(
            f"tokenprune: vLLM {version} is too old; this release was tested with {RANGE}. Install a tested "
            'version, or start without "tokenprune" in --hf-overrides'
        )


def warn_if_untested(version: str) -> None:
    """Log a warning if a version is not among the tested ones.

    Not a Python warning: models are made in processes of vLLM, of which users see the log.
    """
    minor = _minor(version)
    if minor is None or not TESTED[0] <= minor <= TESTED[1]:
        logger.warning(
            "tokenprune was tested with %s, and %s is installed. All names that it depends on were found; to "
            "be sure, install a tested version or a newer tokenprune",
            RANGE,
            version,
        )
