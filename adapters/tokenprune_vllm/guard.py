# SPDX-License-Identifier: Apache-2.0
"""Guard models that cannot be pruned: they raise an error if pruning is configured for them.

vLLM shows a plugin no configuration until a model class is asked for its processor. So each of its models
with pictures is registered anew, as itself with one addition: its processor is not built where pruning was
asked for. A class is made when vLLM asks for it, by the name "<architecture> of vLLM <version>" (vLLM keeps
what it learns about a class on disk, under its name).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from . import stock
from .errors import EngineRefusedError
from .families import FAMILIES
from .settings import KEY
from .versions import check_version

logger = logging.getLogger("vllm.tokenprune")
_ORIGINALS: dict[str, Any] = {}


def register(registry: Any, version: str, skip: set[str]) -> None:
    """Register a guard for every model with pictures except those in `skip`.

    Logs a warning if vLLM does not list its models.
    """
    for architecture, load in stock.originals(registry).items():
        name = f"{architecture} of vLLM {version}"
        if name not in _ORIGINALS:
            _ORIGINALS[name] = load
            if architecture not in skip:
                registry.register_model(architecture, f"{__name__}:{name}")
    if not _ORIGINALS:
        logger.warning(
            'tokenprune: vLLM %s does not list its models; "%s" is ignored with models that cannot be pruned',
            version,
            KEY,
        )


def original(architecture: str) -> Any:
    """Load vLLM's own class of an architecture; None if there is none."""
    loaders = [load for name, load in _ORIGINALS.items() if name.partition(" of vLLM ")[0] == architecture]
    return loaders[0]() if loaders else None


@functools.cache
def __getattr__(name: str) -> Any:
    if name not in _ORIGINALS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    architecture, _, version = name.partition(" of vLLM ")

    def refuse(engine: Any) -> None:
        if stock.is_configured(engine):
            check_version(version)
            raise EngineRefusedError(
                f"tokenprune: {architecture} cannot be pruned inside vLLM; these can: {', '.join(FAMILIES)}. "
                f'Start without "{KEY}" in --hf-overrides'
            )

    return stock.checked(_ORIGINALS[name](), refuse)
