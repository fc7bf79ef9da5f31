# SPDX-License-Identifier: Apache-2.0
"""Ranks that share the heads of a layer keep the same tokens as one process, or the method is refused."""

import pytest
import tiny_families
import tiny_models
from two_ranks import run_two_ranks

import tokenprune

TWO_RANKS = """
    import json, sys
    import torch, torch.distributed as dist
    import tiny_models, tokenprune
    from transformers import LlavaForConditionalGeneration
    from transformers.distributed.configuration_utils import DistributedConfig

    dist.init_process_group("gloo")
    folder = sys.argv[1]
    if dist.get_rank() == 0:
        tiny_models.llava().save_pretrained(folder)
    dist.barrier()
    load = LlavaForConditionalGeneration.from_pretrained
    models = load(folder).eval(), load(folder, distributed_config=DistributedConfig(tp_size=2)).eval()
    inputs = tiny_models.llava_inputs((3, "I", 5))
    said = {}
    with torch.no_grad():
        for method in ("zoo-exact", "divprune", "visionzip"):
            kept, logits, answers = [], [], []
            for model in models:
                with tokenprune.apply(model, method=method, keep=5) as handle:
                    logits.append(model(**inputs).logits)
                    kept.append(handle.last.images[0].kept.tolist())
                    answers.append(model.generate(**inputs, max_new_tokens=5, do_sample=False).tolist())
            said[method] = [kept, float((logits[0] - logits[1]).abs().max()), answers]
    for method, layer in {"fastv": 2, "pyramiddrop": (1, 2), "dart": 2}.items():
        try:
            tokenprune.apply(models[1], method=method, keep=5, layer=layer)
        except tokenprune.IncompatibleError as error:
            said[method] = str(error)
    said["is_pruned"] = tokenprune.is_pruned(models[1])
    with open(f"{folder}/rank{dist.get_rank()}.json", "w") as file:
        json.dump(said, file)
    dist.destroy_process_group()
"""


def test_two_ranks_keep_what_one_process_keeps(tmp_path):
    ranks = run_two_ranks(TWO_RANKS, tmp_path)
    for said in ranks:
        for method in ("zoo-exact", "divprune", "visionzip"):
            (alone, shared), difference, (answer_alone, answer_shared) = said[method]
            assert shared == alone == ranks[0][method][0][0]
            assert difference < 1e-4
            assert answer_shared == answer_alone
        for method in ("fastv", "pyramiddrop", "dart"):
            assert "split over 2 processes (tensor parallelism)" in said[method]
        assert not said["is_pruned"]


@pytest.mark.parametrize(
    "build", [tiny_models.llava, tiny_models.qwen, lambda: tiny_families.build("qwen3_vl")]
)
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "dart"])
def test_methods_that_look_at_shared_heads_are_refused_by_apply(build, method):
    model = build()
    model._tp_size = 2
    layer = (1, 2) if method == "pyramiddrop" else 2
    with pytest.raises(tokenprune.IncompatibleError, match=f"'{method}' reads the attention"):
        tokenprune.apply(model, method=method, layer=layer, keep=5)
    assert not tokenprune.is_pruned(model)


def test_a_cut_in_the_decoder_that_looks_at_no_attention_is_made():
    model = tiny_models.llava()
    model._tp_size = 2
    with tokenprune.apply(
        model, scorer="uniform", selector="topk", stage="decoder", layer=2, keep=5
    ) as handle:
        model(**tiny_models.llava_inputs((3, "I", 5)))
    assert len(handle.last.images[0].kept) == 5
