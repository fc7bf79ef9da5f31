# SPDX-License-Identifier: Apache-2.0
"""CDPruner as published: the user brings CLIP's text tower, each row is compared with its own question."""

import pytest
import tiny_clip
import tiny_models
import torch
from reference import cdpruner as slow
from tiny_clip import BOS, EOS, SEGMENT
from tokenprune_adapters.clip_space import ClipSpace, question_alone
from transformers import CLIPConfig, CLIPModel

import tokenprune


@pytest.fixture(scope="module")
def space():
    return tiny_clip.space(tiny_models.llava().config.vision_config)


def by_hand(space, question):
    """Joint embeddings of a question given as CLIP tokens with begin and end, in rows of SEGMENT."""
    tokens = [BOS, *question, EOS]
    rows = [tokens[i : i + SEGMENT] for i in range(0, len(tokens), SEGMENT)]
    embeds = []
    for row in rows:
        ids = torch.tensor([row + [0] * (SEGMENT - len(row))])
        mask = torch.tensor([[1] * len(row) + [0] * (SEGMENT - len(row))])
        pooled = space.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output
        embeds.append(pooled @ space.clip.text_projection.weight.T)
    return torch.cat(embeds)


def test_a_question_alone():
    text = "\nWhat is it?\nAnswer the question using a single word or phrase. ASSISTANT:"
    assert question_alone(text) == "What is it?"
    assert (
        question_alone(" Who? ASSISTANT:")
        == question_alone("Who?<|im_end|>\n<|im_start|>assistant")
        == "Who?"
    )
    assert question_alone("Where is it") == "Where is it"


def test_questions_are_read_in_segments(space):
    for n in (3, 6, 7, 17):
        question = list(range(10, 10 + n))
        torch.testing.assert_close(space.texts(torch.tensor(question)), by_hand(space, question))
    assert len(space.texts(torch.arange(10, 27))) == 3


def test_patches_are_normed_and_projected(space):
    rows = torch.randn(5, 32)
    norm = getattr(space.clip.vision_model, "vision_model", space.clip.vision_model).post_layernorm
    wanted = torch.nn.functional.layer_norm(rows, (32,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(space.patches(rows), wanted @ space.clip.visual_projection.weight.T)


def test_each_row_keeps_what_its_own_question_asks_for(space, llava_sdpa, inputs):
    with tokenprune.apply(llava_sdpa, method=tokenprune.method("cdpruner", clip=space), keep=5) as handle:
        llava_sdpa(**inputs)
        images = handle.last.images
    tower = llava_sdpa.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    rows = tower.hidden_states[-2][:, 1:]
    assert [image.row for image in images] == [0, 1, 1]
    for number, image in enumerate(images):
        ids = inputs["input_ids"][image.row]
        after = int((ids == tiny_models.IMAGE).nonzero().squeeze(1).view(-1, tiny_models.N)[-1, -1]) + 1
        text = ids[after:]
        if number == 1:  # text between the row's two images comes after the first of them too
            start = int((ids == tiny_models.IMAGE).nonzero()[0]) + tiny_models.N
            between = ids[start:after]
            text = torch.cat([between[between != tiny_models.IMAGE], text])
        relevance = slow.relevance(space.patches(rows[number]), by_hand(space, text.tolist()))
        features = llava_sdpa.model.multi_modal_projector(rows[number])
        assert image.selection.order.tolist() == slow.dpp(features, relevance, 5)


def test_generate_answers_with_it(space, llava_sdpa, inputs):
    with tokenprune.apply(llava_sdpa, method=tokenprune.method("cdpruner", clip=space), keep=5) as handle:
        output = llava_sdpa.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2
    assert handle.last.n_after == 15


def test_embeddings_without_ids_are_refused(space, llava_sdpa):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    embeds = llava_sdpa.get_input_embeddings()(inputs.pop("input_ids"))
    with (
        tokenprune.apply(llava_sdpa, method=tokenprune.method("cdpruner", clip=space), keep=5),
        pytest.raises(tokenprune.UnsupportedCallError, match="pass input_ids"),
    ):
        llava_sdpa(inputs_embeds=embeds, **inputs)


def test_a_clip_of_another_width_is_refused_before_anything_is_touched(space, llava_sdpa):
    config = CLIPConfig(text_config=space.clip.config.text_config, vision_config={"hidden_size": 48})
    config.vision_config.num_hidden_layers = 1
    other = ClipSpace(CLIPModel(config), space.clip_tokenizer, space.tokenizer)
    with pytest.raises(
        tokenprune.IncompatibleError, match="width 48, LlavaForConditionalGeneration's has 32"
    ):
        tokenprune.apply(llava_sdpa, method=tokenprune.method("cdpruner", clip=other), keep=5)
    assert not tokenprune.is_pruned(llava_sdpa)


def test_what_is_no_joint_space_is_refused(space):
    with pytest.raises(tokenprune.OptionError, match="patches, texts and check"):
        tokenprune.method("cdpruner", clip="openai/clip-vit-large-patch14-336")
    with pytest.raises(tokenprune.OptionError, match="requires source='clip'"):
        tokenprune.method("cdpruner", clip=space, source="language")


def test_rows_of_several_tower_layers_are_refused():
    model = tiny_models.llava()
    space = tiny_clip.space(model.config.vision_config)
    model.config.vision_feature_layer = [-1, -2]
    with pytest.raises(tokenprune.IncompatibleError, match="tower's layers -1, -2 side by side"):
        tokenprune.apply(model, method=tokenprune.method("cdpruner", clip=space), keep=4)
