# SPDX-License-Identifier: Apache-2.0
"""Tiny models and processors of the families beyond the first three, in sizes that vLLM runs on a CPU."""

import tiny_families
import tiny_processors as tp
import torch
import transformers

SECTIONS = {  # of positions with three axes; Qwen3.5 rotates a quarter of each head
    "qwen3_vl": [8, 4, 4],
    "qwen3_vl_moe": [8, 4, 4],
    "qwen3_5": [2, 1, 1],
    "qwen3_5_moe": [2, 1, 1],
}
SIDE = 96  # pixels of a picture of Gemma 3 and of a crop of InternVL
WIDE = {"hidden_size": 128, "head_dim": 32}  # heads of 32, the smallest vLLM's CPU kernels know


def model(name):
    """A tiny model of a family, with heads and widths that vLLM knows."""
    class_name, config = tiny_families.CLASSES[name]
    config = config()
    for key, value in WIDE.items():
        setattr(config.text_config, key, value)
    if name in SECTIONS:
        config.vision_config.out_hidden_size = WIDE["hidden_size"]
        config.text_config.rope_parameters |= {"mrope_section": SECTIONS[name], "mrope_interleaved": True}
    if name == "qwen3_vl_moe":
        config.text_config.norm_topk_prob = True  # as in checkpoints on the hub; vLLM asks, transformers does
    if name.startswith("qwen3_5"):
        config.text_config.linear_key_head_dim = config.text_config.linear_value_head_dim = 128
    if name == "gemma3":
        config.text_config.vocab_size = 103  # with line breaks
        config.vision_config.image_size = SIDE
        config.mm_tokens_per_image = (SIDE // 16) ** 2
    if name == "internvl":
        config.vision_config.image_size, config.vision_config.patch_size = [SIDE, SIDE], [8, 8]
        config.image_seq_length = (SIDE // 16) ** 2
    torch.manual_seed(0)
    made = getattr(transformers, class_name)(config).eval()
    for weight in made.parameters():
        if weight.ndim > 1 and not weight.any():  # some begin with zeros
            torch.nn.init.normal_(weight)
    return made


def as_on_the_hub(name, weights):
    """The weights under the names, and in the layouts, that vLLM reads; transformers reads both."""
    if name == "qwen3_vl_moe":
        return {key: w.mT.contiguous() if ".experts." in key else w for key, w in weights.items()}
    return weights


def qwen3_processor(most):
    """Qwen3-VL's processor, which Qwen3.5 uses too: pictures of 64 to `most` pixels."""
    older = tp.qwen(most)
    settings = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    settings["size"] = {"shortest_edge": 64, "longest_edge": most}
    half = [0.5] * 3  # vLLM normalises videos like pictures
    return transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**settings, image_mean=half, image_std=half),
        older.tokenizer,
        transformers.Qwen3VLVideoProcessor(**settings),
        chat_template=older.chat_template,
    )


def tokenizer(image, video, start, end, names, added=()):
    """The tiny tokenizer, which calls some of its special tokens `names`, as processors ask."""
    plain = tp.tokenizer(image, video, start, end)
    plain.add_tokens(list(added))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={f"{name}_token": token for name, token in names.items()},
    )


def gemma3_processor():
    """Gemma 3's processor, without crops of wide pictures; line breaks are tokens, which vLLM joins."""
    words = ("<image_soft_token>", "<video>", "<start_of_image>", "<end_of_image>")
    names = dict(zip(("image", "boi", "eoi"), (words[0], *words[2:]), strict=True))
    made = tokenizer(*words, names, ["\n" * n for n in (1, 2, 3, 4)])
    images = transformers.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Gemma3Processor(images, made, image_seq_length=(SIDE // 16) ** 2)


def internvl_processor():
    """InternVL's processor: wide and tall pictures are cut into up to three crops, with a small picture."""
    words = ("<IMG_CONTEXT>", "<video>", "<img>", "</img>")
    names = dict(zip(("context_image", "video", "start_image", "end_image"), words, strict=True))
    sizes = {"height": SIDE, "width": SIDE}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=sizes, crop_to_patches=True, min_patches=1, max_patches=3),
        tokenizer(*words, names),
        transformers.InternVLVideoProcessor(size=sizes, do_sample_frames=False),
        image_seq_length=(SIDE // 16) ** 2,
    )
