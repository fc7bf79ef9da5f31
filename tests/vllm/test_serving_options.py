# SPDX-License-Identifier: Apache-2.0
"""What else vLLM offers: adapters, embeddings, beams, drafts, other caches, a slow end."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from checkpoints import picture
from engines import N_NEW, Reference, assert_same, engine, prompt
from engines import ask as ask_engine
from safetensors.torch import save_file
from test_server import PRUNING, N, ask, metrics, n_prompt, server_at, serving

import tokenprune

pytestmark = pytest.mark.nightly

PRUNED = ("--hf-overrides", json.dumps({"tokenprune": PRUNING}))
ADAPTED = ("q_proj", "v_proj", "down_proj")


def save_adapter(model, seed, folder):
    """Save random LoRA weights of the language model as PEFT does. Returns what each adds to a weight."""
    generator, files, added = torch.Generator().manual_seed(seed), {}, {}
    for name, layer in model.named_modules():
        if "language_model" in name and name.endswith(ADAPTED):
            n_out, n_in = layer.weight.shape
            down = torch.randn(8, n_in, generator=generator) / n_in**0.5
            up = torch.randn(n_out, 8, generator=generator) / 8**0.5
            files[f"base_model.model.{name}.lora_A.weight"] = down
            files[f"base_model.model.{name}.lora_B.weight"] = up
            added[name] = 2 * up @ down  # lora_alpha / r
    folder.mkdir()
    save_file(files, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny"}
    config |= {"r": 8, "lora_alpha": 16, "bias": "none", "target_modules": list(ADAPTED)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_lora_in_the_language_model(name, checkpoint, tmp_path):
    """Two adapters in one step, then again from the prefix cache, then none.

    Not all three in one step: on a CPU vLLM 0.32 (not 0.33) runs the request without an adapter with one of
    the others, pruned or not.
    """
    from vllm.lora.request import LoRARequest

    reference = Reference(checkpoint(name))
    asked = prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96))
    expected = []
    for seed in (1, 2):
        added = save_adapter(reference.model, seed, tmp_path / f"adapter{seed}")
        for layer, weight in added.items():
            reference.model.get_submodule(layer).weight.data += weight
        expected.append(reference.answer(asked, PRUNING))
        for layer, weight in added.items():
            reference.model.get_submodule(layer).weight.data -= weight
    expected.append(reference.answer(asked, PRUNING))
    adapters = [LoRARequest(f"adapter{seed}", seed, str(tmp_path / f"adapter{seed}")) for seed in (1, 2)]
    answers = []
    with engine(checkpoint(name), PRUNING, enable_lora=True, max_loras=2, max_lora_rank=8) as llm:
        for of_step in (adapters, adapters, [None]):
            answers += ask_engine(llm, [asked] * len(of_step), adapters=of_step)
    assert [answer.n_cached for answer in answers] == [0, 0, 32, 32, 0]
    assert len({tuple(answer.tokens) for answer in expected}) == 3
    for answer, of_transformers in zip(answers, [*expected[:2], *expected], strict=True):
        assert_same(answer, of_transformers)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_embeddings(name, checkpoint):
    """The last token's state, as pooling models return it."""
    asked = prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96))
    with engine(checkpoint(name), PRUNING, runner="pooling", convert="embed") as llm:
        (output,) = llm.embed([asked], use_tqdm=False)
    reference = Reference(checkpoint(name))
    pictures = asked["multi_modal_data"]["image"]
    inputs = reference.processor(text=asked["prompt"], images=pictures, return_tensors="pt")
    with torch.no_grad(), tokenprune.apply(reference.model, **PRUNING):
        state = reference.model.model(**inputs).last_hidden_state[0, -1]
    assert len(output.prompt_token_ids) == inputs["input_ids"].shape[1] - N + 48
    embedding = torch.tensor(output.outputs.embedding)
    torch.testing.assert_close(embedding, state / state.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_beam_search(name, checkpoint):
    from vllm.sampling_params import BeamSearchParams

    asked = prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96))
    with engine(checkpoint(name), PRUNING) as llm:
        beams = BeamSearchParams(beam_width=3, max_tokens=N_NEW, ignore_eos=True)
        (output,) = llm.beam_search([asked], beams)
    reference = Reference(checkpoint(name))
    n_tokens = reference.answer(asked, PRUNING).n_prompt
    reference.model.generation_config.num_beams = 3
    best = output.sequences[0].tokens
    assert len(best) == n_tokens + N_NEW
    assert best[n_tokens:] == reference.answer(asked, PRUNING).tokens


def test_drafts_by_n_grams(checkpoint):
    """Speculative decoding, for positions that are renumbered."""
    drafts = {"method": "ngram", "num_speculative_tokens": 3}
    drafts |= {"prompt_lookup_max": 2, "prompt_lookup_min": 1}
    prompts = [prompt("llava", "w5 IMAGE w3 w14 w15 w3 w14", picture(seed)) for seed in (1, 2)]
    reference = Reference(checkpoint("llava"))
    with engine(checkpoint("llava"), PRUNING, speculative_config=drafts) as llm:
        for answer, asked in zip(ask_engine(llm, prompts, n_new=24), prompts, strict=True):
            assert_same(answer, reference.answer(asked, PRUNING, n_new=24))


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_a_processor_cache_in_shared_memory(name, checkpoint, tmp_path):
    """Pictures of the cache are answered as new ones, with the engine's budget and with others."""
    budgets = [{}, {"keep": 10}, {"keep_ratio": 0.2}]
    answers = []
    for cache in (("--mm-processor-cache-type", "shm"), ("--mm-processor-cache-gb", "0")):
        options = (*PRUNED, "--trust-request-mm-kwargs", "--no-enable-prefix-caching", *cache)
        with serving(checkpoint(name), tmp_path / "log", *options) as client:
            asked = [(picture(seed), budget) for _ in range(2) for seed in range(3) for budget in budgets]
            found = [ask(client, one, **budget) for one, budget in asked]
            answers.append([(n_prompt(one), one.choices[0].token_ids) for one in found])
            counted = metrics(client)
        assert counted["visual_tokens_before", None] == N * len(asked)
        assert counted["visual_tokens_after", None] == 6 * (48 + 10 + 29)
        assert set(counted) == {(kind, None) for kind in ("requests", "items", "visual_tokens_before")} | {
            ("visual_tokens_after", None)
        }
    assert answers[0] == answers[1] and len({tuple(tokens) for _, tokens in answers[0]}) > 3


def test_requests_in_flight_are_answered_before_the_end(checkpoint, tmp_path):
    """A server with `--shutdown-timeout`, told to end while it answers."""
    questions, long = [picture(seed) for seed in range(4)], {"max_tokens": 600, "ignore_eos": True}
    with serving(checkpoint("qwen"), tmp_path / "log", *PRUNED, "--shutdown-timeout", "60") as client:
        expected = [ask(client, one, **long).choices[0].token_ids for one in questions]
        server = server_at(client.base_url.port)
        streams = [ask(client, one, stream=True, **long) for one in questions]
        begun = [next(tokens) for tokens in map(_tokens, streams)]
        assert all(0 < len(tokens) < 300 for tokens in begun)
        os.kill(server.pid, signal.SIGTERM)
        with ThreadPoolExecutor(4) as clients:
            rest = list(clients.map(lambda stream: sum(_tokens(stream), []), streams))
        assert server.wait(60) == 0
    assert [first + more for first, more in zip(begun, rest, strict=True)] == expected
    assert all(len(tokens) == 600 for tokens in expected)


def _tokens(stream):
    """The tokens of a streamed answer, piece by piece."""
    for piece in stream:
        for choice in piece.choices:
            if tokens := (choice.model_extra or {}).get("token_ids"):
                yield list(tokens)
