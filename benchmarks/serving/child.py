# SPDX-License-Identifier: Apache-2.0
"""Time a vLLM engine in a separate process: `python -m benchmarks.serving.child TASK`.

TASK is JSON: `folder`, `pruning` (null: none), `concurrency` (a list), `requests` (for each), `new_tokens`,
`text_tokens`, `seed`. Prints a line "RESULT {...}".
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


def prompts(n: int, text_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Create prompts with one image each, all different, so that there are no cache hits."""
    import numpy as np
    from PIL import Image

    from benchmarks.serving.checkpoint import IMAGE, SPECIAL, WORDS

    numbers = np.random.default_rng(seed)
    requests: list[dict[str, Any]] = []
    for _ in range(n):
        words = numbers.integers(len(SPECIAL), WORDS, text_tokens).tolist()
        half = text_tokens // 2
        pixels = numbers.integers(0, 256, (336, 336, 3), dtype=np.uint8)
        ids = [1, *words[:half], IMAGE, *words[half:]]
        requests.append({"prompt_token_ids": ids, "multi_modal_data": {"image": Image.fromarray(pixels)}})
    return requests


async def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Serve at each concurrency; return the time to first token of each request and the total time."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    pruning = task["pruning"]
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=task["folder"],
            dtype="float32" if on_cpu else "bfloat16",
            max_model_len=1024,
            max_num_seqs=32,
            max_num_batched_tokens=2048,
            enforce_eager=on_cpu,
            enable_prefix_caching=False,
            disable_log_stats=True,
            limit_mm_per_prompt={"image": 1},
            hf_overrides={} if pruning is None else {"tokenprune": pruning},
        )
    )
    params = SamplingParams(temperature=0, max_tokens=task["new_tokens"], ignore_eos=True)
    runs, n_prompt = [], 0

    async def request(name: str, prompt: Any) -> float:
        nonlocal n_prompt
        begun, first = time.perf_counter(), 0.0
        async for output in engine.generate(prompt, params, name):
            first = first or time.perf_counter() - begun
            n_prompt = len(output.prompt_token_ids)
        return first

    try:
        for prompt in prompts(2, task["text_tokens"], task["seed"]):
            await request("warm", prompt)
        for concurrency, n in zip(task["concurrency"], task["requests"], strict=True):
            waiting = prompts(n, task["text_tokens"], task["seed"] + concurrency)
            firsts: list[float] = []

            async def client(lane: int, waiting: list[Any], firsts: list[float]) -> None:
                while waiting:
                    firsts.append(await request(f"{lane} {len(waiting)}", waiting.pop()))

            begun = time.perf_counter()
            await asyncio.gather(*(client(lane, waiting, firsts) for lane in range(concurrency)))
            seconds = time.perf_counter() - begun
            runs.append({"concurrency": concurrency, "seconds": seconds, "first_token_seconds": firsts})
    finally:
        engine.shutdown()
    return {"prompt_tokens": n_prompt, "runs": runs, "device": current_platform.device_name}


if __name__ == "__main__":
    print("RESULT", json.dumps(asyncio.run(measure(json.loads(sys.argv[1])))))
