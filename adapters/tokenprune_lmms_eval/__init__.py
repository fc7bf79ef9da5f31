# SPDX-License-Identifier: Apache-2.0
"""lmms-eval's `--model tokenprune`: any checkpoint that tokenprune can prune, pruned or not.

lmms-eval finds `manifest` by the entry point of group `lmms_eval.models` and calls it in every run, whatever
the model: nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Tell lmms-eval the model's name and its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="tokenprune", chat_class_path="tokenprune_lmms_eval.model.TokenPrune")
