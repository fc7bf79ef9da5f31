# SPDX-License-Identifier: Apache-2.0
"""Procedural scenes and questions about them: the test images of tokenprune."""

from tokenprune_embedded import FAMILIES, Question

from benchmarks.scenes.questions import ask
from benchmarks.scenes.scene import Scene, SceneObject, draw_scene
from benchmarks.scenes.sign import Sign
from benchmarks.scenes.splits import held_out_scenes

__all__ = ["FAMILIES", "Question", "Scene", "SceneObject", "Sign", "ask", "draw_scene", "held_out_scenes"]
