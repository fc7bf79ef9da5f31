# SPDX-License-Identifier: Apache-2.0
"""Raise an error if pruning is configured for a model that cannot be pruned.

A plugin does not see the configuration before vLLM builds a model's processor. Each of vLLM's multimodal
models is therefore registered again, as a subclass whose processor raises the error. A subclass is made when
vLLM imports it, by the name "<architecture> of vLLM <version>": vLLM caches on disk what it learns about a
class, under this name.
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
    """Register a guard for every multimodal model except those in `skip`.

    Logs a warning if the models of vLLM cannot be listed.
    """
    for architecture, load in stock.model_loaders(registry).items():
        name = f"{architecture} of vLLM {version}"
        if name not in _ORIGINALS:
            _ORIGINALS[name] = load
            if architecture not in skip:
                registry.register_model(architecture, f"{__name__}:{name}")
    if not _ORIGINALS:
        logger.warning(
            'tokenprune: vLLM %s does not list its models; "%s" is ignored for models that cannot be pruned',
            version,
            KEY,
        )


def original(architecture: str) -> Any:
    """Load vLLM's own class of an architecture. Returns None if it is unknown."""
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

    return stock.guarded_model(_ORIGINALS[name](), refuse)
