# SPDX-License-Identifier: Apache-2.0
"""Engines of `tokenprune bench --engine vllm` in processes of their own; here a stand-in for vLLM."""

import asyncio
import json
import sys

import pytest
from tokenprune_cli.console.failures import BadInputError
from tokenprune_serving import child, measure
from tokenprune_serving.engine import EngineProcess, last_words
from tokenprune_serving.load import make_load

# takes 6 s a request unpruned, 1.5 s after the tower and 1 s inside it; says what vLLM might say
STAND_IN = """
import json, os, sys
task = json.loads(sys.argv[1])
print("a line of vLLM's")
pruning = task["pruning"]
each = 6 if pruning is None else 1 if "stage" in pruning else 1.5
print("RESULT {}", flush=True)
for line in sys.stdin:
    wanted = json.loads(line)
    times = [each] * wanted["requests"]
    result = {"seconds": each * wanted["requests"], "first_token_seconds": times, "answer_seconds": times}
    result |= {"prompt_tokens": 609 if pruning is None else 97}
    result |= {"plugins": os.environ.get("VLLM_PLUGINS"), "seed": wanted["seed"]}
    print("RESULT", json.dumps(result), flush=True)
"""
FAILS = "import sys; sys.exit('tokenprune: keep is too large\\nTypeError: None')"


@pytest.fixture
def stand_in(monkeypatch):
    def use(code):
        program = (sys.executable, "-c", code)
        monkeypatch.setattr("tokenprune_serving.engine.PROGRAM", program)

    return use


def test_an_engine_answers_rounds_and_stops(stand_in):
    stand_in(STAND_IN)
    engine = EngineProcess({"pruning": None}, plugin=False)
    engine.started()
    first, second = engine.serve(2, 3, seed=5), engine.serve(1, 1, seed=6)
    engine.stop()
    assert (first["seconds"], len(first["answer_seconds"]), first["seed"]) == (18, 3, 5)
    assert (second["seconds"], second["seed"], second["plugins"]) == (6, 6, "none")


def test_an_engine_with_the_plugin_loads_plugins(stand_in):
    stand_in(STAND_IN)
    engine = EngineProcess({"pruning": None}, plugin=True)
    engine.started()
    result = engine.serve(1, 1, seed=1)
    engine.stop()
    assert result["plugins"] is None


def test_an_engine_that_does_not_start_is_quoted(stand_in):
    stand_in(FAILS)
    engine = EngineProcess({"pruning": None}, plugin=True)
    with pytest.raises(BadInputError, match="vLLM did not run: tokenprune: keep is too large"):
        engine.started()
    with pytest.raises(BadInputError, match="vLLM did not run"):
        engine.serve(1, 1, seed=1)
    engine.stop()


def test_of_an_engines_last_words_ours_count():
    assert (
        last_words("a\ntokenprune: keep is too large\nTypeError: None\n") == "tokenprune: keep is too large"
    )
    assert last_words("a\nTypeError: None\n") == "TypeError: None"
    assert last_words("") == "no message"


def test_all_contenders_answer_the_same_requests(stand_in, monkeypatch):
    stand_in(STAND_IN)
    monkeypatch.setattr("tokenprune_serving.checkpoint.save", lambda folder: 150)
    said = []
    parameters, runs = measure.measure(make_load(), said.append)
    assert parameters == 150
    assert said[:3] == ["saving a model", "starting no plugin", "starting plugin, idle"]
    assert said[-6:] == [f"round {i} of 6" for i in range(1, 7)]
    names = ["no plugin", "plugin, idle", "divprune, 64", "tower divprune, 64 @2"]
    assert [(run.name, run.concurrency) for run in runs] == [(name, n) for name in names for n in (1, 8)]
    assert [run.prompt_tokens for run in runs[::2]] == [609, 609, 97, 97]
    assert [len(run.answer_seconds) for run in runs] == [6, 48] * 4
    assert [run.throughput_ratio for run in runs[1::2]] == [1.0, 1.0, 4.0, 6.0]
    assert [run.throughput_interval for run in runs[1::2]] == [None, (1.0, 1.0), (4.0, 4.0), (6.0, 6.0)]
    assert [run.tower_ratio for run in runs] == [None] * 6 + [1.5, 1.5]
    assert runs[-1].tower_interval == (1.5, 1.5)


def test_pictures_of_rounds_differ(stand_in):
    seeds = []

    class Recorder:
        def serve(self, clients, requests, seed):
            seeds.append(seed)
            return {}

    measure._rounds(make_load(), {"a": Recorder(), "b": Recorder()}, lambda what: None)
    assert seeds[:4] == [1, 1, 8, 8]  # contenders get the same, and 0 is that of the first, untimed ones
    assert len(set(seeds)) == 12 and seeds == sorted(seeds)


def test_clients_wait_for_their_answers():
    at_once, most, prompts = 0, 0, [{"prompt": i} for i in range(5)]
    names = []

    class Output:
        prompt_token_ids = (1, 2, 3)

    class Engine:
        async def generate(self, prompt, params, name):
            nonlocal at_once, most
            names.append(name)
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            yield Output()
            await asyncio.sleep(0)
            yield Output()
            at_once -= 1

    result = asyncio.run(child.serve(Engine(), None, 2, prompts, "x"))
    assert (most, len(names), len(set(names)), prompts) == (2, 5, 5, [])
    assert (len(result["first_token_seconds"]), result["prompt_tokens"]) == (5, 3)
    pairs = zip(result["first_token_seconds"], result["answer_seconds"], strict=True)
    assert all(0 < first < answer <= result["seconds"] for first, answer in pairs)
    assert json.loads(json.dumps(result)) == result
