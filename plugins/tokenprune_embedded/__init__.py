# SPDX-License-Identifier: Apache-2.0
"""A trained model and pictures with questions; they are part of the package, so no network is needed."""

from tokenprune_embedded.model import embedded_model_path, load_embedded_model
from tokenprune_embedded.scenes import FAMILIES, N_SCENES, Question, Scene, held_out_scenes

__all__ = [
    "FAMILIES",
    "N_SCENES",
    "Question",
    "Scene",
    "embedded_model_path",
    "held_out_scenes",
    "load_embedded_model",
]
