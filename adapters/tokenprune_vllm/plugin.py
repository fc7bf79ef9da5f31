# SPDX-License-Identifier: Apache-2.0
"""The entry point of group `vllm.general_plugins`: names our model classes to vLLM, by its documented call.

vLLM runs it in every process, some of them short-lived: nothing is imported here but what is imported
already, and running it twice changes nothing.
"""

from __future__ import annotations

from . import guard
from .families import FAMILIES
from .versions import is_supported


def register() -> None:
    """Register the families that can be pruned, and a check for every other model with pictures."""
    import vllm
    from vllm import ModelRegistry

    families = FAMILIES if is_supported(vllm.__version__) else {}
    guard.register(ModelRegistry, vllm.__version__, skip=set(families))
    for architecture, where in families.items():
        ModelRegistry.register_model(architecture, where)
