# SPDX-License-Identifier: Apache-2.0
"""The named signals that strategies can use: their meaning, shapes and token axes.

Shapes are those of one image: N visual tokens, T text tokens after the image, D width of the language model,
H attention heads, P patches merged into a token, of p x p pixels in C channels. Signals with other names (of
third-party adapters) are passed through unchanged, or sliced to a tile's tokens if their first axis is N.

At the decoder stage, N counts the tokens left at the cut, including rows made by earlier cuts, and
`VisualTokens.features` are their hidden states entering the layer before which the cut is made. Layers are
absolute indices from 0. Text rows are indexed as in `text_embeds`, the text after the image; negative indices
count from the end, except that -1 is the last token of the prompt, even if that belongs to an image. With
labels, the prompt of an image ends before the first token after it that is to be predicted.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """One named signal.

    `token_axis` is the axis of the image's tokens, or None. `of_tiles`: the first axis counts tiles.
    A `function` is passed to strategies itself, and `result_axis` is the token axis of its result; any other
    callable is called once, on first use. `of_the_model`: the same for all images.
    """

    name: str
    shape: str
    meaning: str
    token_axis: int | None = None
    function: bool = False
    result_axis: int | None = None
    of_tiles: bool = False
    of_the_model: bool = False


_KNOWN = (
    Signal(
        "pre_features",
        "(N, D_v) or (N, P, D_v)",
        "input rows of the projector; P rows per token if it merges patches",
        0,
    ),
    Signal(
        "projector",
        "(..., D_v) -> (..., D)",
        "the map from tower to language model, a Projector",
        function=True,
        of_the_model=True,
    ),
    Signal("cls_attention", "(H, N)", "attention probabilities of the CLS query, patch columns only", 1),
    Signal("key_metric", "(N, d_head)", "head mean of the keys of the layer the features come from", 0),
    Signal("received_attention", "(N,)", "attention each token receives, mean over heads and queries", 0),
    Signal(
        "tower_received",
        "(block) -> (N,)",
        "attention each token receives in a block of the vision tower that `Strategy.tower_blocks` names, "
        "mean over heads and all queries, the class token's included",
        function=True,
        result_axis=0,
    ),
    Signal(
        "tower_depth",
        "()",
        "number of the tower's blocks, up to the last whose output is projected; an integer",
        of_the_model=True,
    ),
    Signal(
        "cls_hidden",
        "(1, D_v)",
        "the CLS row of the layer the features come from; one row per tile",
        of_tiles=True,
    ),
    Signal("text_embeds", "(T, D)", "layer-0 embeddings of the text after the image"),
    Signal("text_ids", "(T,)", "token ids of the text after the image"),
    Signal("input_features", "(N, D)", "all the image's rows at layer 0, whatever was cut since", 0),
    Signal(
        "attention_rows",
        "(layer, rows) -> (H, R, N)",
        "attention probabilities of that layer, from the text rows `rows` (R,) to the image",
        function=True,
        result_axis=2,
    ),
    Signal(
        "keys",
        "(layer) -> (H_kv, N, d_head)",
        "keys of the image's tokens, after rotary",
        function=True,
        result_axis=1,
    ),
    Signal(
        "text_keys", "(layer) -> (H_kv, T, d_head)", "the same for the text after the image", function=True
    ),
    Signal(
        "hidden",
        "(layer) -> (N, D)",
        "hidden rows of the image entering a decoder layer",
        function=True,
        result_axis=0,
    ),
    Signal("text_hidden", "(layer) -> (T, D)", "the same for the text after the image", function=True),
    Signal(
        "final_norm",
        "(..., D) -> (..., D)",
        "the language model's last norm",
        function=True,
        of_the_model=True,
    ),
    Signal("position_ids", "(N,) or (3, N)", "positions of the image's tokens", -1),
    Signal("text_position_ids", "(T,) or (3, T)", "positions of the text after the image"),
    Signal(
        "rotary",
        "(positions (P,)) -> (cos, sin), each (P, d_head)",
        "the language model's rotary embedding",
        function=True,
        of_the_model=True,
    ),
    Signal(
        "pixels",
        "(N, P C p p)",
        "pixel values of the patches of each token, normalised by the processor; before block 0 of a tower",
        0,
    ),
    Signal("sizes", "(N,)", "number of patches that each token stands for, after earlier merging", 0),
    Signal("clip_patch_embeds", "(N, C)", "patches in CLIP's joint space", 0),
    Signal("clip_text_embeds", "(M, C)", "the question in CLIP's joint space, one row per 77-token segment"),
)

SIGNALS = {signal.name: signal for signal in _KNOWN}
