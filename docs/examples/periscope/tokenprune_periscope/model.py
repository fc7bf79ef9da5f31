# SPDX-License-Identifier: Apache-2.0
"""Periscope: a CLIP vision tower, a projector and a Llama decoder, under names of its own.

Each patch of an image becomes one visual token. The model is of the usual kind, but its parts are where no other
model has them, so that tokenprune prunes it only with the adapter of this package.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, GenerationMixin, LlamaConfig, LlamaModel
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)


class PeriscopeConfig(PreTrainedConfig):
    """The tower, the decoder, and the token that stands for each patch."""

    model_type = "periscope"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": LlamaConfig}

    vision_config: CLIPVisionConfig | dict | None = None
    text_config: LlamaConfig | dict | None = None
    image_token_id: int = 0


class PeriscopePreTrainedModel(PreTrainedModel):
    """What the two modules below have in common."""

    config_class = PeriscopeConfig
    input_modalities = ("image", "text")
    _supports_sdpa = True


class Coupler(nn.Module):
    """The projector: a layer norm and two linear layers, row by row."""

    def __init__(self, config: PeriscopeConfig) -> None:
        super().__init__()
        width, out = config.vision_config.hidden_size, config.text_config.hidden_size
        self.level = nn.LayerNorm(width)
        self.enter = nn.Linear(width, out)
        self.act = nn.GELU()
        self.leave = nn.Linear(out, out)

    def forward(self, rows: Tensor) -> Tensor:
        """Project rows (..., D_v) to (..., D)."""
        return self.leave(self.act(self.enter(self.level(rows))))


class PeriscopeScope(PeriscopePreTrainedModel):
    """Tower, projector and decoder, without the head."""

    def __init__(self, config: PeriscopeConfig) -> None:
        super().__init__(config)
        self.lens = CLIPVisionModel(config.vision_config)
        self.coupler = Coupler(config)
        self.reader = LlamaModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of text embeddings."""
        return self.reader.embed_tokens

    def get_image_features(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Encode images (B, 3, H, W); `pooler_output` (B, N, D) has a row for each patch."""
        seen = self.lens(pixel_values, **kwargs)
        seen.pooler_output = self.coupler(seen.last_hidden_state[:, 1:])  # without the class token
        return seen

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache=None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Replace the embeddings of image tokens by the rows of the patches, and call the decoder."""
        if inputs_embeds is None:
            inputs_embeds = self.reader.embed_tokens(input_ids)
        if pixel_values is not None:
            rows = self.get_image_features(pixel_values).pooler_output
            places = (input_ids == self.config.image_token_id).unsqueeze(-1)
            inputs_embeds = inputs_embeds.masked_scatter(places, rows.to(inputs_embeds))
        return self.reader(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class PeriscopeForConditionalGeneration(PeriscopePreTrainedModel, GenerationMixin):
    """Answers questions about images."""

    def __init__(self, config: PeriscopeConfig) -> None:
        super().__init__(config)
        self.scope = PeriscopeScope(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of text embeddings."""
        return self.scope.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache=None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Compute the logits of the next tokens, and the loss if there are labels."""
        outputs = self.scope(
            input_ids, pixel_values, attention_mask, position_ids, cache, inputs_embeds, **kwargs
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=outputs.cache)


def tiny_periscope() -> PeriscopeForConditionalGeneration:
    """Return a tiny model with random weights, the same each time: 16 visual tokens of an image."""
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4}
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, image_size=32, patch_size=8, **sizes)
    text = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=96, num_key_value_heads=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = PeriscopeConfig(vision_config=vision, text_config=text, image_token_id=90)
        return PeriscopeForConditionalGeneration(config).eval()
