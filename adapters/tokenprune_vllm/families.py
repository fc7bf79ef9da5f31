# SPDX-License-Identifier: Apache-2.0
"""The architectures that can be pruned inside vLLM, and the import paths of our classes for them."""

FAMILIES = {
    "LlavaForConditionalGeneration": "tokenprune_vllm.llava:PrunedLlava",
    "LlavaNextForConditionalGeneration": "tokenprune_vllm.llava_next:PrunedLlavaNext",
    "Qwen2_5_VLForConditionalGeneration": "tokenprune_vllm.qwen2_5_vl:PrunedQwen25VL",
}
