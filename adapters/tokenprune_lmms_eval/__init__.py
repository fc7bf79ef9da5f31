# SPDX-License-Identifier: Apache-2.0
"""The model `tokenprune` of lmms-eval: any checkpoint that tokenprune supports, pruned or not.

lmms-eval finds `manifest` by the entry point of group `lmms_eval.models` and calls it in every run, with
any model, so this module imports nothing heavy.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the model's name and class for lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="tokenprune", chat_class_path="tokenprune_lmms_eval.model.TokenPrune")
