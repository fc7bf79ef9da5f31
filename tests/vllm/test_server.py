# SPDX-License-Identifier: Apache-2.0
"""A real `vllm serve` on loopback, asked through the `openai` client."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from checkpoints import picture

N = 144  # tokens of the picture in both models
PRUNING = {"method": "zoo-exact", "keep": 48}
SMALL = ("--dtype", "float32", "--max-model-len", "2048", "--enforce-eager", "--block-size", "32")


@contextlib.contextmanager
def serving(folder, log, *options, patience=300, **environment):
    """A server of the checkpoint in `folder`; its client. What it says goes to the file `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", folder, "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "8", *SMALL, *options]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO", **environment}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    with log.open("w") as said:
        server = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + patience
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def ask(client, *pictures, n=1, **budget):
    """A chat about pictures."""
    content = []
    for one in pictures:
        file = io.BytesIO()
        one.save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": "w3 w14 w15"})
    extra = {"mm_processor_kwargs": {"tokenprune": budget}} if budget else {}
    return client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": content}],
        max_tokens=6,
        temperature=0 if n == 1 else 1,
        n=n,
        extra_body={"return_token_ids": True, **extra},
    )


def n_prompt(answer):
    return answer.usage.prompt_tokens


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_a_server_prunes_and_survives_bad_requests(name, checkpoint, tmp_path):
    folder, overrides = checkpoint(name), json.dumps({"tokenprune": PRUNING})
    pruned = ("--hf-overrides", overrides, "--trust-request-mm-kwargs")
    with serving(folder, tmp_path / "pruned.log", *pruned) as client:
        one, two = ask(client, picture(1)), ask(client, picture(1), picture(2))
        own, again = ask(client, picture(1), keep=10), ask(client, picture(1))
        several = ask(client, picture(1), n=3)
        for wrong in ({"keep": 49}, {"keep": -1}, {"keep": "many"}, {"method": "stride"}):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, picture(1), **wrong)
            assert caught.value.status_code == 400
        assert "this engine allows 48" in _refusal(client, keep=49)
        after = ask(client, picture(1))
    with serving(folder, tmp_path / "whole.log") as client:
        whole = [n_prompt(ask(client, *pictures)) for pictures in ([picture(1)], [picture(1), picture(2)])]
    assert [n_prompt(one), n_prompt(two)] == [whole[0] - (N - 48), whole[1] - 2 * (N - 48)]
    assert n_prompt(own) == whole[0] - (N - 10)
    assert again.choices[0].token_ids == one.choices[0].token_ids == after.choices[0].token_ids
    assert len(several.choices) == 3 and n_prompt(several) == n_prompt(one)
    said = (tmp_path / "pruned.log").read_text()
    assert "tokenprune: zoo-exact, keep=48 per image" in said
    assert "zoo-exact kept 96 of 288 rows of 2 images" in said
    assert "tokenprune:" not in (tmp_path / "whole.log").read_text()


def test_two_engines_side_by_side_answer_as_one_does(checkpoint, tmp_path):
    folder, pruned = checkpoint("llava"), ("--hf-overrides", json.dumps({"tokenprune": PRUNING}))
    two_engines = {"VLLM_CPU_SIM_MULTI_NUMA": "1"}  # a core for each; vLLM 0.33 wants a memory node for each
    answers = []
    for options, environment in (((), {}), (("--data-parallel-size", "2"), two_engines)):
        with (
            serving(folder, tmp_path / "log", *pruned, *options, **environment) as client,
            ThreadPoolExecutor(6) as clients,
        ):
            asked = list(clients.map(lambda seed: ask(client, picture(seed)), range(6)))
        answers.append([(n_prompt(one), one.choices[0].token_ids) for one in asked])
    said = (tmp_path / "log").read_text()
    assert "EngineCore_DP0" in said and "EngineCore_DP1" in said
    assert answers[0] == answers[1] and len({tuple(tokens) for _, tokens in answers[0]}) > 1


def _refusal(client, **budget):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, picture(1), **budget)
    return str(caught.value)
