# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be pruned say so when pruning is configured for them; otherwise they are vLLM's own.

vLLM shows a plugin no configuration until a model class is asked for its processor. So each of its models
with pictures is registered anew, as itself with one addition: its processor is not built where pruning was
asked for. A class is made when vLLM asks for it, by the name "<architecture> of vLLM <version>" (vLLM keeps
what it learns about a class on disk, under its name).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from .errors import EngineRefusedError
from .settings import KEY
from .versions import check_version

# vLLM's lists of models among which some take pictures
WITH_PICTURES = (
    "_MULTIMODAL_MODELS",
    "_TRANSFORMERS_BACKEND_MODELS",
    "_TRANSFORMERS_SUPPORTED_MODELS",
    "_EMBEDDING_MODELS",
    "_LATE_INTERACTION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS",
    "_REWARD_MODELS",
)
_ORIGINALS: dict[str, Any] = {}


def register(registry: Any, version: str, skip: set[str]) -> None:
    """Put a guard before every model with pictures but those of `skip`."""
    from vllm.model_executor.models import registry as known

    architectures = set().union(*(getattr(known, name, ()) for name in WITH_PICTURES))
    for architecture in architectures - skip:
        name = f"{architecture} of vLLM {version}"
        if name not in _ORIGINALS and architecture in registry.models:
            _ORIGINALS[name] = registry.models[architecture]
            registry.register_model(architecture, f"{__name__}:{name}")


@functools.cache
def __getattr__(name: str) -> Any:
    if name not in _ORIGINALS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    model = _ORIGINALS[name].load_model_cls()
    stock = getattr(model, "_processor_factory", None)
    if stock is None:
        return model
    architecture, _, version = name.partition(" of vLLM ")
    factory = dataclasses.replace(stock, info=_checked(stock.info, architecture, version))
    return type(model.__name__, (model,), {"_processor_factory": factory, "__module__": model.__module__})


def _checked(info: Callable[[Any], Any], architecture: str, version: str) -> Callable[[Any], Any]:
    """The same, but refusing where pruning is configured."""

    def build(context: Any) -> Any:
        if getattr(context.model_config.hf_config, KEY, None) is not None:
            from .plugin import FAMILIES

            check_version(version)
            raise EngineRefusedError(
                f"tokenprune: {architecture} cannot be pruned inside vLLM; these can: {', '.join(FAMILIES)}. "
                f'Start without "{KEY}" in --hf-overrides'
            )
        return info(context)

    return build
