# SPDX-License-Identifier: Apache-2.0
"""An engine of vLLM in this process, and transformers pruned by `tokenprune.apply`, on one checkpoint."""

import contextlib
import gc
import os
from dataclasses import dataclass

import torch
from checkpoints import IMAGE_TEXT
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

import tokenprune

N_NEW = 8
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 2048,
    "enforce_eager": True,
    "seed": 0,
    "limit_mm_per_prompt": {"image": 4, "video": 1},
    "max_num_seqs": 8,
    "block_size": 32,
}


@dataclass
class Answer:
    """Greedy tokens, logarithms of their probabilities, the prompt's length, how much of it was cached."""

    tokens: list
    logprobs: list
    n_prompt: int
    n_cached: int = 0


@contextlib.contextmanager
def engine(folder, pruning=None, **options):
    """An engine, pruned as `pruning` says; shut down at the end."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    overrides = {} if pruning is None else {"hf_overrides": {"tokenprune": pruning}}
    limits = OPTIONS["limit_mm_per_prompt"]
    if not any(name in str(folder) for name in ("qwen", "internvl")):
        limits = {"image": limits["image"]}
    llm = LLM(str(folder), **{**OPTIONS, "limit_mm_per_prompt": limits, **overrides, **options})
    second = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
    assert llm.llm_engine.vllm_config.use_v2_model_runner is second
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def prompt(name, text, *pictures):
    """A prompt for model `name`: each IMAGE of the text stands for one of the pictures."""
    return {
        "prompt": text.replace("IMAGE", IMAGE_TEXT[name]),
        "multi_modal_data": {"image": list(pictures)} if pictures else {},
    }


def ask(llm, prompts, n_new=N_NEW, adapters=None, **sampling):
    """Answers of an engine; `adapters` are LoRA requests or None, one for each prompt."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=n_new, logprobs=0, ignore_eos=True, **sampling)
    answers = []
    for output in llm.generate(prompts, settings, lora_request=adapters, use_tqdm=False):
        (found,) = output.outputs
        tokens = list(found.token_ids)
        logprobs = [step[token].logprob for step, token in zip(found.logprobs, tokens, strict=True)]
        answers.append(Answer(tokens, logprobs, len(output.prompt_token_ids), output.num_cached_tokens))
    return answers


class Reference:
    """transformers, in float32."""

    def __init__(self, folder):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model.generation_config.eos_token_id = None

    def answer(self, asked, pruning=None, n_new=N_NEW):
        """The answer to one prompt; `pruning` as for `tokenprune.apply`."""
        given = {"images": asked["multi_modal_data"].get("image") or None}
        videos = asked["multi_modal_data"].get("video")
        if videos:
            given |= {
                "videos": [v[0] if isinstance(v, tuple) else v for v in videos],
                "do_sample_frames": False,
            }
            about = [v[1] for v in videos if isinstance(v, tuple)]
            about = [{k: v for k, v in one.items() if k != "do_sample_frames"} for one in about]
            if about:
                given["video_metadata"] = [VideoMetadata(**one) for one in about]
        inputs = self.processor(text=asked["prompt"], return_tensors="pt", **given)
        if self.model.config.model_type == "gemma3":  # vLLM's kernels for CPUs are causal among image tokens
            del inputs["token_type_ids"]
        handle = None if pruning is None else tokenprune.apply(self.model, **pruning)
        try:
            output = self.model.generate(
                **inputs,
                max_new_tokens=n_new,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
            report = None if handle is None else handle.last
            dropped = 0 if report is None else report.n_before - report.n_after
        finally:
            if handle is not None:
                handle.remove()
        length = inputs["input_ids"].shape[1]
        tokens = output.sequences[0, length:].tolist()
        steps = [logits[0].log_softmax(-1) for logits in output.logits]
        logprobs = [float(step[token]) for step, token in zip(steps, tokens, strict=True)]
        return Answer(tokens, logprobs, length - dropped)


def assert_same(found, expected, tolerance=1e-4):
    """The same tokens, with the same probabilities, after a prompt of the same length."""
    assert found.tokens == expected.tokens
    assert found.n_prompt == expected.n_prompt
    difference = max(abs(a - b) for a, b in zip(found.logprobs, expected.logprobs, strict=True))
    assert difference < tolerance
