# SPDX-License-Identifier: Apache-2.0
"""The entry point of group `vllm.general_plugins`: registers our model classes with vLLM.

vLLM calls it in every process, including short-lived ones, so it imports no module that vLLM has not imported
already. Calling it twice has the same effect as calling it once.
"""

from __future__ import annotations

from . import guard
from .families import FAMILIES
from .versions import is_too_old


def register() -> None:
    """Register the families that can be pruned, and a guard for every other multimodal model."""
    import vllm
    from vllm import ModelRegistry

    families = {} if is_too_old(vllm.__version__) else FAMILIES
    guard.register(ModelRegistry, vllm.__version__, skip=set(families))
    for architecture, path in families.items():
        ModelRegistry.register_model(architecture, path)
