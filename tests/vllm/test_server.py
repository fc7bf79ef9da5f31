# SPDX-License-Identifier: Apache-2.0
"""A real `vllm serve` on loopback, asked through the `openai` client."""

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
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
    kept_open = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "300"}  # no connection is closed just as it is used again
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO", **kept_open, **environment}
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


def server_at(port):
    """The process of the server at a port."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "serve" in words and str(port) in words:
            return process
    raise AssertionError("no server")


def ask(client, *pictures, n=1, max_tokens=6, stream=False, ignore_eos=False, **budget):
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
        max_tokens=max_tokens,
        temperature=0 if n == 1 else 1,
        n=n,
        stream=stream,
        extra_body={"return_token_ids": True, "ignore_eos": ignore_eos, **extra},
    )


def n_prompt(answer):
    return answer.usage.prompt_tokens


def metrics(client):
    """Our counters on the /metrics endpoint that are not 0: {(name, labels): value}."""
    url = str(client.base_url).replace("/v1/", "/metrics")
    text = urllib.request.urlopen(url, timeout=30).read().decode()
    lines = re.findall(r"^tokenprune:(\w+)_total{(.*)} (.*)$", text, re.MULTILINE)
    labels = [dict(re.findall(r'(\w+)="(.*?)"', of)) for _, of, _ in lines]
    assert all(one["model_name"] == "tiny" and one["method"] == "zoo-exact" for one in labels)
    values = zip(lines, labels, strict=True)
    return {(name, one.get("reason")): float(n) for (name, _, n), one in values if float(n)}


def pruned_tokens(requests, items, after):
    """What `metrics` returns for these requests, in the same order of names."""
    counts = {"requests": requests, "items": items, "visual_tokens_before": N * items}
    return {(name, None): n for name, n in {**counts, "visual_tokens_after": after}.items()}


def body_of(pictures_part=None, **fields):
    """The body of a chat about picture 1, with further fields in the picture's part or the body."""
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    url = {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}
    content = [{"type": "image_url", "image_url": url, **(pictures_part or {})}]
    content.append({"type": "text", "text": "w3 w14 w15"})
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 6, **fields}


def post(client, body, path="chat/completions"):
    """The status and the parsed answer of a request that the client library does not check."""
    request = urllib.request.Request(
        f"{client.base_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_a_server_prunes_and_survives_bad_requests(name, checkpoint, tmp_path):
    folder, overrides = checkpoint(name), json.dumps({"tokenprune": PRUNING})
    pruned = ("--hf-overrides", overrides, "--trust-request-mm-kwargs")
    pruned += ("--middleware", "tokenprune_vllm.middleware.OnlyBudgets")
    logging_of_requests = {"VLLM_LOGGING_CONFIG_PATH": _documented_logging(tmp_path)}
    with serving(folder, tmp_path / "pruned.log", *pruned, **logging_of_requests) as client:
        one, two = ask(client, picture(1)), ask(client, picture(1), picture(2))
        own, again = ask(client, picture(1), keep=10), ask(client, picture(1))
        several = ask(client, picture(1), n=3)
        for wrong in ({"keep": 49}, {"keep": -1}, {"keep": "many"}, {"method": "stride"}):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, picture(1), **wrong)
            assert caught.value.status_code == 400
        assert "this engine allows 48" in _refusal(client, keep=49)
        after = ask(client, picture(1))
        status, named = post(client, body_of({"uuid": "order-17"}))
        assert (status, named["usage"]["prompt_tokens"]) == (200, n_prompt(one))
        counted = pruned_tokens(requests=7, items=8, after=7 * 48 + 10)
        assert metrics(client) == {**counted, ("requests_refused", "budget"): 5}
        for body, place in (
            (body_of(tokenprune={"keep": 8}), "tokenprune"),
            (body_of({"tokenprune": {"keep": 8}}), "messages.0.content.0.tokenprune"),
            (body_of(vllm_xargs={"tokenprune": 8}), "vllm_xargs.tokenprune"),
            (body_of(mm_processor_kwargs={"size": 8}), "mm_processor_kwargs"),
        ):
            status, answer = post(client, body)
            assert status == 400 and answer["error"]["param"] == place
        counted |= {("requests_refused", "misplaced"): 3, ("requests_refused", "processor_arguments"): 1}
        assert metrics(client) == {**counted, ("requests_refused", "budget"): 5}
    with serving(folder, tmp_path / "whole.log") as client:
        whole = [n_prompt(ask(client, *pictures)) for pictures in ([picture(1)], [picture(1), picture(2)])]
    assert [n_prompt(one), n_prompt(two)] == [whole[0] - (N - 48), whole[1] - 2 * (N - 48)]
    assert n_prompt(own) == whole[0] - (N - 10)
    assert again.choices[0].token_ids == one.choices[0].token_ids == after.choices[0].token_ids
    assert len(several.choices) == 3 and n_prompt(several) == n_prompt(one)
    said = (tmp_path / "pruned.log").read_text()
    assert "tokenprune: zoo-exact, keep=48 per image" in said
    assert "7 requests, 8 items, kept 346 of 1152 visual tokens, 9 refused" in said
    assert "kept 96 of 288 visual tokens of 2 items (0 of unknown size): " in said
    assert "kept 48 of 144 visual tokens of 1 items (0 of unknown size): order-17-tokenprune-" in said
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
            assert metrics(client) == pruned_tokens(requests=6, items=6, after=6 * 48)
            if not options:
                ignored_without_the_middleware(client)
        answers.append([(n_prompt(one), one.choices[0].token_ids) for one in asked])
    said = (tmp_path / "log").read_text()
    assert "EngineCore_DP0" in said and "EngineCore_DP1" in said
    assert "ApiServer_0" in said and "ApiServer_1" in said
    assert answers[0] == answers[1] and len({tuple(tokens) for _, tokens in answers[0]}) > 1


def ignored_without_the_middleware(client):
    """What docs/serving.md says of a budget in another place, where vLLM drops it."""
    budget = {"tokenprune": {"keep": 8}}
    expected = n_prompt(ask(client, picture(1)))
    for body in (
        body_of(**budget),
        body_of(extra_body=budget),
        body_of(budget),
        body_of(chat_template_kwargs=budget),
        body_of(vllm_xargs={"tokenprune": 8}),
    ):
        status, answer = post(client, body)
        assert (status, answer["usage"]["prompt_tokens"]) == (200, expected)
    for body in (
        body_of(vllm_xargs=budget),
        body_of(mm_processor_kwargs=budget),
        body_of(media_io_kwargs={"image": budget}),
    ):
        assert post(client, body)[0] == 400


def _documented_logging(folder):
    """The path of a file with the logging configuration of docs/serving.md."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (configuration,) = (
        block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "loggers" in block
    )
    path = folder / "logging.json"
    path.write_text(configuration)
    return str(path)


def _refusal(client, **budget):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, picture(1), **budget)
    return str(caught.value)
