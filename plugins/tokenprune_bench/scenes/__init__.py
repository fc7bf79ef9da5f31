# SPDX-License-Identifier: Apache-2.0
"""Procedural scenes and questions about them: the test pictures of tokenprune."""

from tokenprune_bench.scenes.questions import FAMILIES, Question, ask
from tokenprune_bench.scenes.scene import Scene, SceneObject, draw_scene
from tokenprune_bench.scenes.sign import Sign
from tokenprune_bench.scenes.splits import held_out_scenes

__all__ = ["FAMILIES", "Question", "Scene", "SceneObject", "Sign", "ask", "draw_scene", "held_out_scenes"]
