# SPDX-License-Identifier: Apache-2.0
"""Thousands of requests to one server: good, aborted and bad ones, mixed. Left to `make test-full`.

TOKENPRUNE_SOAK is the number of requests, 2000 by default. At the end it prints the figures of
docs/reliability.md, as a line of JSON.
"""

import collections
import itertools
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from checkpoints import picture
from test_server import PRUNING, ask, metrics, n_prompt, server_at, serving

pytestmark = pytest.mark.nightly

REQUESTS, CLIENTS = int(os.environ.get("TOKENPRUNE_SOAK", "2000")), 32
SHAPES = [(96, 96), (160, 64), (64, 176), (120, 88)]
BUDGETS = [{}, {"keep": 10}, {"keep": 48}, {"keep_ratio": 0.2}]
GOOD = [
    *(((shape, seed),) for shape, seed in itertools.product(SHAPES, range(3))),
    *(((SHAPES[n], 3), (SHAPES[n - 1], 4)) for n in range(4)),
]
KINDS = list(itertools.product(GOOD, BUDGETS))
BAD = [{"keep": 49}, {"keep": -1}, {"keep": "many"}, {"method": "stride"}, {"keep_ratio": 0.9}]


def pictures(kind):
    """The pictures of a kind of request."""
    return [picture(seed, *shape) for shape, seed in kind[0]]


def answered(client, kind):
    """Length of the prompt and tokens of an answer."""
    answer = ask(client, *pictures(kind), **kind[1])
    return n_prompt(answer), tuple(answer.choices[0].token_ids)


def abort(client, kind):
    """Close the connection after the first piece of an answer."""
    with ask(client, *pictures(kind), stream=True, max_tokens=64, **kind[1]) as stream:
        next(iter(stream))


def memory(client):
    """Bytes of the server's processes."""
    server = server_at(client.base_url.port)
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))


def test_every_good_answer_is_that_of_the_request_alone(checkpoint, tmp_path):
    draw = random.Random(0)
    outcomes = collections.Counter()
    options = ("--hf-overrides", json.dumps({"tokenprune": PRUNING}), "--trust-request-mm-kwargs")
    with serving(checkpoint("qwen"), tmp_path / "log", *options) as client:
        alone = {index: answered(client, kind) for index, kind in enumerate(KINDS)}
        before, started = metrics(client), time.monotonic()

        def one(number):
            index, fate = plan[number]
            if fate == "good":
                assert answered(client, KINDS[index]) == alone[index], KINDS[index]
            elif fate == "aborted":
                abort(client, KINDS[index])
            else:
                with pytest.raises(openai.BadRequestError):
                    ask(client, *pictures(KINDS[index]), **BAD[number % len(BAD)])
            outcomes[fate] += 1

        fates = draw.choices(["good", "aborted", "bad"], [85, 7, 8], k=REQUESTS)
        plan = [(draw.randrange(len(KINDS)), fate) for fate in fates]
        sizes = []
        with ThreadPoolExecutor(CLIENTS) as clients:
            for part in range(4):
                numbers = range(part * REQUESTS // 4, (part + 1) * REQUESTS // 4)
                list(clients.map(one, numbers))
                sizes.append(memory(client))
        seconds, after = time.monotonic() - started, metrics(client)
        assert {index: answered(client, KINDS[index]) for index in (0, len(KINDS) - 1)} == {
            index: alone[index] for index in (0, len(KINDS) - 1)
        }
    assert outcomes == collections.Counter(fates)
    counted = {name: after[name] - before.get(name, 0) for name in after}
    processed = [KINDS[index] for index, fate in plan if fate != "bad"]
    assert counted["requests", None] == len(processed)
    assert counted["items", None] == sum(len(kind[0]) for kind in processed)
    assert counted["visual_tokens_before", None] == sum(map(n_whole, processed))
    assert counted["visual_tokens_after", None] == sum(map(n_kept, processed))
    assert counted["requests_refused", "budget"] == outcomes["bad"]
    assert sizes[-1] < 1.05 * sizes[0], sizes
    figures = {**outcomes, "seconds": round(seconds, 1), "megabytes": [size >> 20 for size in sizes]}
    print(f"soak: {json.dumps(figures)}")


def test_memory_without_pruning(checkpoint, tmp_path):
    """The same server and pictures without the plugin's work: how its memory develops, for comparison."""
    draw = random.Random(0)
    plan = [draw.randrange(len(KINDS)) for _ in range(REQUESTS)]
    aborted = [draw.random() < 0.07 for _ in range(REQUESTS)]
    sizes = []

    def one(number):
        kind = (KINDS[plan[number]][0], {})
        if aborted[number]:
            abort(client, kind)
        else:
            answered(client, kind)

    with serving(checkpoint("qwen"), tmp_path / "log") as client, ThreadPoolExecutor(CLIENTS) as clients:
        for pictures_of_one in GOOD:  # as the other server: first one after another
            answered(client, (pictures_of_one, {}))
        for part in range(4):
            list(clients.map(one, range(part * REQUESTS // 4, (part + 1) * REQUESTS // 4)))
            sizes.append(memory(client))
    assert sizes[-1] < 1.05 * sizes[0], sizes
    print(f"soak without pruning: {json.dumps({'megabytes': [size >> 20 for size in sizes]})}")


def n_of(shape):
    """Visual tokens of a picture: squares of 8 pixels."""
    width, height = shape
    return width // 8 * (height // 8)


def n_whole(kind):
    return sum(n_of(shape) for shape, _ in kind[0])


def n_kept(kind):
    ratio = kind[1].get("keep_ratio")
    keep = kind[1].get("keep", PRUNING["keep"])
    counts = [n_of(shape) for shape, _ in kind[0]]
    return sum(min(keep, n) if ratio is None else int(ratio * n + 0.5) for n in counts)
