# SPDX-License-Identifier: Apache-2.0
"""Tiny models of five families and their inputs: what transformers' suite calls model testers.

Every row is text, one image, text. Seven rows: the suite's comparison of eager with SDPA cuts or fills
batches to seven, and cut images would not fit their placeholders. Special ids are low: the suite shrinks
vocabularies.
"""

import torch
import transformers

PAD, BOS, EOS, IMAGE, VIDEO, START, END = range(7)
SPECIAL = tuple(range(7))
PIXELS = ("pixel_values", "image_sizes", "image_grid_thw")  # what has no column for each token
BEFORE, AFTER = 3, 4  # text tokens around an image
WIDTH, LAYERS, HEADS, KV_HEADS, VOCABULARY = 32, 2, 4, 2, 99

SIZES = {"hidden_size": WIDTH, "intermediate_size": 37, "initializer_range": 0.1}
TEXT = {
    **SIZES,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 512,
    "attention_dropout": 0.0,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VIT = {
    **SIZES,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
QWEN_TOWER = {
    **SIZES,
    "depth": LAYERS,
    "num_heads": HEADS,
    "out_hidden_size": WIDTH,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


class Family:
    """A model tester, with the attributes and methods that the suite looks for."""

    model_class: type
    n_image = 16  # visual tokens of an image
    batch_size = 7
    is_training = True
    num_hidden_layers = LAYERS
    num_attention_heads = HEADS
    hidden_size = WIDTH
    vocab_size = VOCABULARY
    pad_token_id = PAD
    image_token_id = IMAGE

    def __init__(self, parent):
        self.parent = parent
        self.seq_length = self.encoder_seq_length = self.key_length = BEFORE + self.n_image + AFTER

    def get_config(self):
        raise NotImplementedError

    def images(self, n):
        """Model inputs of n random images."""
        return {"pixel_values": torch.rand(n, 3, 32, 32)}

    def words(self, rows, n):
        """Ordinary tokens, (rows, n)."""
        return torch.randint(END + 1, 80, (rows, n))

    def ids(self, rows, images):
        """Text, then each image's placeholders and text behind them, (rows, L)."""
        parts = [self.words(rows, BEFORE)]
        for _ in range(images):
            parts += [torch.full((rows, self.n_image), IMAGE), self.words(rows, AFTER)]
        return torch.cat(parts, 1)

    def inputs(self, rows, images=1):
        """A batch of rows with so many images each."""
        ids = self.ids(rows, images)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **self.images(rows * images)}

    def cut_rows(self, inputs, start, stop):
        """Some rows of a batch, with their images."""
        n = len(inputs["input_ids"])
        return {
            name: value[start * len(value) // n : stop * len(value) // n] for name, value in inputs.items()
        }

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.inputs(self.batch_size)

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class Llava(Family):
    model_class = transformers.LlavaForConditionalGeneration

    def get_config(self):
        return transformers.LlavaConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", "projection_dim": WIDTH, **VIT},
            image_token_id=IMAGE,
            image_seq_length=self.n_image,
        )


class LlavaNext(Family):
    """Pictures of two tiles: 16 tokens of the whole, and 4 lines of 8 tokens and a newline."""

    model_class = transformers.LlavaNextForConditionalGeneration
    n_image = 52

    def get_config(self):
        return transformers.LlavaNextConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", "projection_dim": WIDTH, **VIT},
            image_token_id=IMAGE,
            image_seq_length=self.n_image,
            image_grid_pinpoints=[[32, 64], [64, 32]],
        )

    def images(self, n):
        return {"pixel_values": torch.rand(n, 3, 3, 32, 32), "image_sizes": torch.tensor([[32, 64]] * n)}


class InternVL(Family):
    model_class = transformers.InternVLForConditionalGeneration

    def get_config(self):
        return transformers.InternVLConfig(
            text_config={"model_type": "qwen2", **TEXT},
            vision_config={**VIT, "image_size": [32, 32], "patch_size": [4, 4]},
            image_token_id=IMAGE,
            image_seq_length=self.n_image,
            downsample_ratio=0.5,
        )


class Qwen(Family):
    """The Qwens: marks around an image, packed patches, the kind of each token."""

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

    def ids(self, rows, images):
        ids = super().ids(rows, images)
        for i in range(images):
            first = BEFORE + i * (self.n_image + AFTER)
            ids[:, first - 1], ids[:, first + self.n_image] = START, END
        return ids

    def images(self, n):
        return {
            "pixel_values": torch.rand(n * 4 * self.n_image, 3 * 2 * 4 * 4),
            "image_grid_thw": torch.tensor([[1, 8, 8]] * n),
        }

    def inputs(self, rows, images=1):
        made = super().inputs(rows, images)
        return {**made, "mm_token_type_ids": (made["input_ids"] == IMAGE).int()}


class Qwen25VL(Qwen):
    model_class = transformers.Qwen2_5_VLForConditionalGeneration

    def get_config(self):
        return transformers.Qwen2_5_VLConfig(
            text_config={"model_type": "qwen2_5_vl_text", **TEXT, "rope_parameters": self.rope},
            vision_config={**QWEN_TOWER, "window_size": 16, "fullatt_block_indexes": [1]},
            **QWEN_IDS,
        )


class Qwen3VL(Qwen):
    model_class = transformers.Qwen3VLForConditionalGeneration

    def get_config(self):
        rope = {**self.rope, "mrope_interleaved": True}
        text = {"model_type": "qwen3_vl_text", **TEXT, "head_dim": WIDTH // HEADS, "rope_parameters": rope}
        tower = {**QWEN_TOWER, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        return transformers.Qwen3VLConfig(text_config=text, vision_config=tower, **QWEN_IDS)
