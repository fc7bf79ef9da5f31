# SPDX-License-Identifier: Apache-2.0
"""Where the towers of the table's families are in their tiny models, and which patches make which token."""

import functools
from dataclasses import dataclass

import tiny_families as families
import torch
from family_cases import BATCH_FAILS, SMOLVLM_FAILS
from reference.overwritten import square


@dataclass(frozen=True)
class Tower:
    """Where the blocks are, the patches of each token of a picture, and the rows before them."""

    blocks: str
    patches: torch.Tensor
    n_prefix: int = 0
    packed: bool = False


GROUPS = torch.arange(64).view(16, 4)  # patches of a token that follow each other


def in_windows(height, width):
    """The patches of each token, four that follow each other, where windows of 2 x 2 tokens do too."""
    tokens = [(i, j) for i in range(height) for j in range(width)]
    order = sorted(tokens, key=lambda token: (token[0] // 2, token[1] // 2, *token))
    return torch.tensor([[order.index(token) * 4 + patch for patch in range(4)] for token in tokens])


WINDOWS = in_windows(4, 4)
TOWERS = {
    "internvl": Tower("vision_tower.encoder.layer", square(8, 8, 2), n_prefix=1),
    "gemma3": Tower("vision_tower.encoder.layers", square(8, 8, 2)),
    "smolvlm": Tower("vision_model.encoder.layers", square(4, 4, 2)),
    "idefics3": Tower("vision_model.encoder.layers", square(4, 4, 2)),
    "paligemma": Tower("vision_tower.encoder.layers", square(4, 4, 1)),
    "aya_vision": Tower("vision_tower.encoder.layers", square(8, 8, 2)),
    "gemma4": Tower("vision_tower.encoder.layers", square(8, 8, 2)),
    "gemma4_e": Tower("vision_tower.encoder.layers", square(8, 8, 2)),
    "cohere2_vision": Tower("vision_tower.encoder.layers", square(8, 8, 2)),
    "qianfan_ocr": Tower("vision_tower.layers", square(8, 8, 2), n_prefix=1),
    "ovis2": Tower("vision_tower.transformer.encoder.layers", square(8, 8, 2)),
    "deepseek_vl": Tower("vision_model.encoder.layers", square(4, 4, 1)),
    "janus": Tower("vision_model.encoder.layers", square(4, 4, 1)),
    "vipllava": Tower("vision_tower.encoder.layers", square(4, 4, 1), n_prefix=1),
    "video_llava": Tower("image_tower.encoder.layers", square(4, 4, 1), n_prefix=1),
    "mistral3": Tower("vision_tower.transformer.layers", square(8, 8, 2), packed=True),
    "lighton_ocr": Tower("vision_encoder.transformer.layers", square(8, 8, 2), packed=True),
    "paddleocr_vl": Tower("visual.encoder.layers", square(8, 8, 2), packed=True),
    "kimi_k25": Tower("vision_tower.layers", square(8, 8, 2), packed=True),
    "video_llama_3": Tower("vision_model.encoder.layers", GROUPS, packed=True),
    "exaone4_5": Tower("visual.blocks", WINDOWS, packed=True),
    "hyperclovax_vision_v2": Tower("vision_model.blocks", WINDOWS, packed=True),
    "cosmos3_edge": Tower("visual.encoder.layers", GROUPS, packed=True),
    "cosmos3_omni": Tower("visual.blocks", GROUPS, packed=True),
    "cohere_compass": Tower("visual.blocks", GROUPS, packed=True),
    "glm_ocr": Tower("visual.blocks", GROUPS, packed=True),
    "ernie4_5_vl_moe": Tower("vision_tower.blocks", GROUPS, packed=True),
    "minimax_m3_full": Tower("vision_tower.layers", GROUPS, packed=True),
}
KNOWN = (*families.CLASSES, *families.STRUCTURAL)
FAILING = (*BATCH_FAILS, *(("smolvlm",) if SMOLVLM_FAILS else ()))  # in stock code of this version
NAMES = [name for name in TOWERS if name in KNOWN and name not in FAILING]
if not families.STRUCTURAL["ovis2"].config().vision_config.model_type:  # before its tower had a type
    NAMES.remove("ovis2")


@functools.cache
def model_of(name):
    """The tiny model of a family; Gemma 3 and Ovis 2 with four patches to a token."""
    if name not in ("gemma3", "ovis2"):
        return families.model(name)
    config = families.gemma3() if name == "gemma3" else families.STRUCTURAL[name].config()
    config.vision_config.patch_size = 4
    config.vision_config.hidden_stride = 2  # Ovis 2
    torch.manual_seed(0)
    model = type(families.model(name))(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.std() < 0.1:
                weight.copy_(torch.randn(weight.shape) * 0.2)
    return model


def blocks_of(model, name):
    path = TOWERS[name].blocks
    owner, _, rest = path.partition(".")
    module = getattr(model.model, owner)
    module = getattr(module, "vision_model", module)  # transformers 5.17 has one more module around it
    return module.get_submodule(rest)
