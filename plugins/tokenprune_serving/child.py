# SPDX-License-Identifier: Apache-2.0
"""Run a vLLM engine that answers rounds of requests: `python -m tokenprune_serving.child TASK`.

TASK is JSON: `folder`, `pruning` (null: none), `new_tokens`, `text_tokens`, `max_clients`, and `engines`, how
many share the device. Prints "RESULT {}" when the engine has started. For each line of stdin, JSON with
`clients`, `requests` and `seed`, it prints a line "RESULT {...}" with what `serve` returns.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

MARK = "RESULT "  # before the answers; vLLM prints lines of its own
MAX_SEQUENCES = 32


def prompts(n: int, text_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Create prompts with one image each, all different, so that there are no cache hits."""
    import numpy as np
    from PIL import Image

    from tokenprune_serving.checkpoint import IMAGE, SPECIAL, WORDS

    numbers = np.random.default_rng(seed)
    requests: list[dict[str, Any]] = []
    for _ in range(n):
        words = numbers.integers(len(SPECIAL), WORDS, text_tokens).tolist()
        half = text_tokens // 2
        pixels = numbers.integers(0, 256, (336, 336, 3), dtype=np.uint8)
        ids = [1, *words[:half], IMAGE, *words[half:]]
        requests.append({"prompt_token_ids": ids, "multi_modal_data": {"image": Image.fromarray(pixels)}})
    return requests


def make_engine(task: dict[str, Any]) -> Any:
    """Start the engine."""
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    from tokenprune_serving.checkpoint import MAX_LENGTH, cache_bytes

    on_cpu, pruning = current_platform.is_cpu(), task["pruning"]
    sequences = min(MAX_SEQUENCES, task["max_clients"]) + 1  # a block is left unused
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=task["folder"],
            dtype="float32" if on_cpu else "bfloat16",
            max_model_len=MAX_LENGTH,
            max_num_seqs=MAX_SEQUENCES,
            max_num_batched_tokens=2048,
            gpu_memory_utilization=round(0.9 / task["engines"], 3),
            kv_cache_memory_bytes=cache_bytes(sequences * MAX_LENGTH),
            enforce_eager=on_cpu,
            enable_prefix_caching=False,
            disable_log_stats=True,
            limit_mm_per_prompt={"image": 1},
            hf_overrides={} if pruning is None else {"tokenprune": pruning},
        )
    )


async def serve(engine: Any, params: Any, clients: int, waiting: list[Any], name: str) -> dict[str, Any]:
    """Let clients send the waiting requests, each the next one when it has its answer; time them.

    Returns the `seconds` from the first request to the last answer, those to the first and last token of
    each request, in the order of their answers, and the number of `prompt_tokens`.
    """
    firsts: list[float] = []
    answers: list[float] = []
    n_prompt = 0

    async def client(lane: int) -> None:
        nonlocal n_prompt
        while waiting:
            prompt = waiting.pop()
            begun, first = time.perf_counter(), 0.0
            async for output in engine.generate(prompt, params, f"{name} {lane} {len(waiting)}"):
                first = first or time.perf_counter() - begun
                n_prompt = len(output.prompt_token_ids)
            firsts.append(first)
            answers.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(client(lane) for lane in range(clients)))
    return {
        "seconds": time.perf_counter() - begun,
        "first_token_seconds": firsts,
        "answer_seconds": answers,
        "prompt_tokens": n_prompt,
    }


async def run(task: dict[str, Any]) -> None:
    """Start the engine, then answer rounds until stdin ends."""
    from vllm import SamplingParams

    engine = make_engine(task)
    params = SamplingParams(temperature=0, max_tokens=task["new_tokens"], ignore_eos=True)
    try:
        await serve(engine, params, 1, prompts(2, task["text_tokens"], seed=0), "warm")
        print(MARK + "{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            wanted = json.loads(line)
            waiting = prompts(wanted["requests"], task["text_tokens"], wanted["seed"])
            result = await serve(engine, params, wanted["clients"], waiting, line.strip())
            print(MARK + json.dumps(result), flush=True)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
