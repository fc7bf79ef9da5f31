# SPDX-License-Identifier: Apache-2.0
"""The architectures that can be pruned inside vLLM, and the import paths of our classes for them."""

FAMILIES = {
    "LlavaForConditionalGeneration": "tokenprune_vllm.llava:PrunedLlava",
    "LlavaNextForConditionalGeneration": "tokenprune_vllm.llava_next:PrunedLlavaNext",
    "Gemma3ForConditionalGeneration": "tokenprune_vllm.gemma3:PrunedGemma3",
    "InternVLForConditionalGeneration": "tokenprune_vllm.internvl:PrunedInternVL",
    "Qwen2_5_VLForConditionalGeneration": "tokenprune_vllm.qwen2_5_vl:PrunedQwen25VL",
    "Qwen3VLForConditionalGeneration": "tokenprune_vllm.qwen3_vl:PrunedQwen3VL",
    "Qwen3VLMoeForConditionalGeneration": "tokenprune_vllm.qwen3_vl:PrunedQwen3VLMoe",
    "Qwen3_5ForConditionalGeneration": "tokenprune_vllm.qwen3_vl:PrunedQwen35",
    "Qwen3_5MoeForConditionalGeneration": "tokenprune_vllm.qwen3_vl:PrunedQwen35Moe",
}
