# SPDX-License-Identifier: Apache-2.0
"""Counters and log lines of a server that prunes; stand-ins for prometheus_client and vLLM."""

import logging
import sys
import types

import pytest
from tokenprune_vllm import counts, requests, stock
from tokenprune_vllm.counts import Counts, Tally
from tokenprune_vllm.errors import ItemSizeError, MisplacedError, reason
from tokenprune_vllm.lookup import View
from tokenprune_vllm.processing import PruningProcessor
from tokenprune_vllm.requests import RequestCounter
from tokenprune_vllm.settings import Settings

from tokenprune import BudgetError, IncompatibleError


class Counter:
    """A counter as prometheus_client's; `exposed` has the values of all."""

    exposed = {}

    def __init__(self, name, description, labels):
        assert description
        self.name, self.label_names = name, tuple(labels)

    def labels(self, *values):
        assert len(values) == len(self.label_names)
        child = Counter(self.name, "one", ())
        child.key = (f"{self.name}_total", *values)
        self.exposed.setdefault(child.key, 0)
        return child

    def inc(self, n=1):
        self.exposed[self.key] += n


class Timer:
    """A timer that the test fires."""

    started = []

    def __init__(self, seconds, function):
        self.seconds, self.fire, self.cancelled = seconds, function, False

    def start(self):
        assert self.daemon
        self.started.append(self)

    def cancel(self):
        self.cancelled = True


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    module = types.ModuleType("prometheus_client")
    module.Counter = Counter
    monkeypatch.setitem(sys.modules, "prometheus_client", module)
    monkeypatch.setattr(Counter, "exposed", {})
    monkeypatch.setattr(Timer, "started", [])
    monkeypatch.setattr(counts.threading, "Timer", Timer)
    monkeypatch.setattr(counts.atexit, "register", lambda function: None)
    monkeypatch.setattr(counts, "_ACTIVE", [])
    counts.prometheus_counters.cache_clear()
    counts.counts_of.cache_clear()
    yield
    counts.prometheus_counters.cache_clear()
    counts.counts_of.cache_clear()


def test_every_counter_is_exposed_as_0_before_the_first_request():
    made = Counts("llava", "stride")
    names = ["requests", "items", "visual_tokens_before", "visual_tokens_after", "items_of_unknown_size"]
    reasons = ["budget", "item_size", "unknown_item", "misplaced", "processor_arguments", "invalid_json"]
    assert Counter.exposed == {
        **{(f"tokenprune:{name}_total", "llava", "stride"): 0 for name in names},
        **{("tokenprune:requests_refused_total", "llava", "stride", one): 0 for one in reasons},
    }
    made.log_summary()
    assert Timer.started == []


def test_requests_and_refusals_are_added_up():
    made = Counts("llava", "stride")
    made.add(Tally(1, 2, 288, 96))
    made.add(Tally(1, 1, 144, 48, 0))
    made.add(Tally(1, 1, 0, 0, 1))
    made.refuse("budget")
    found = {key: n for key, n in Counter.exposed.items() if n}
    assert found == {
        ("tokenprune:requests_total", "llava", "stride"): 3,
        ("tokenprune:items_total", "llava", "stride"): 4,
        ("tokenprune:visual_tokens_before_total", "llava", "stride"): 432,
        ("tokenprune:visual_tokens_after_total", "llava", "stride"): 144,
        ("tokenprune:items_of_unknown_size_total", "llava", "stride"): 1,
        ("tokenprune:requests_refused_total", "llava", "stride", "budget"): 1,
    }


def test_one_summary_is_logged_per_minute_with_requests(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(counts.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "vllm.tokenprune")
    made = Counts("llava", "stride")
    made.add(Tally(1, 2, 288, 96))
    made.refuse("budget")
    made.add(Tally(1, 1, 144, 48))
    (timer,) = Timer.started
    assert timer.seconds == 60 and caplog.messages == []
    now[0] += 60.2
    timer.fire()
    expected = "2 requests, 3 items, kept 144 of 432 visual tokens, 1 refused"
    assert caplog.messages == [f"tokenprune: stride, in the last 60 s: {expected}"]
    made.log_summary()  # nothing since then
    assert len(caplog.messages) == 1 and len(Timer.started) == 1
    now[0] += 1000
    made.add(Tally(1, 3, 144, 48, 2))
    now[0] += 7
    made.log_summary()  # at exit
    expected = "1 requests, 3 items, kept 48 of 144 visual tokens, 2 items of unknown size, 0 refused"
    assert caplog.messages[1:] == [f"tokenprune: stride, in the last 7 s: {expected}"]
    assert Timer.started[1].cancelled


def test_without_prometheus_client_one_warning_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    made = [Counts("llava", method) for method in ("stride", "random")]
    made[0].add(Tally(1, 1, 144, 48))
    made[0].refuse("budget")
    made[0].log_summary()
    said = "tokenprune: prometheus_client is not installed; /metrics has no counters of pruning"
    assert caplog.messages == [said]


def test_counts_are_shared_by_the_processors_of_a_model():
    assert counts.active_counts() is None
    made = counts.counts_of("llava", "stride")
    assert counts.counts_of("llava", "stride") is made is counts.active_counts()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BudgetError("x"), "budget"),
        (IncompatibleError("x"), "unknown_item"),
        (ItemSizeError("x"), "item_size"),
        (MisplacedError("x"), "misplaced"),
    ],
)
def test_reasons_of_refusals(error, expected):
    assert reason(error) == expected and expected in counts.REASONS


class Info:
    modalities = ("image", "video")
    options = types.SimpleNamespace(served_name="llava")
    pruning = types.SimpleNamespace(method=types.SimpleNamespace(name="stride"))

    def n_unpruned(self, modality, item):
        return item

    def own_budget(self, arguments):
        budget = self.request_budget(arguments)
        return budget if "tokenprune" in arguments else None

    def check_modalities(self, items):
        pass


def processed(**modalities):
    """A processed request with lists of (key, size or None if vLLM has cached it, kept) per modality."""
    unzipped = {name: list(zip(*triples, strict=True)) for name, triples in modalities.items()}
    request = {
        "mm_hashes": {name: keys for name, (keys, _, _) in unzipped.items()},
        "mm_kwargs": {name: items for name, (_, items, _) in unzipped.items()},
        "mm_placeholders": {
            name: [types.SimpleNamespace(length=n) for n in rows] for name, (_, _, rows) in unzipped.items()
        },
    }
    return View(request, stock.RECORDS["processed_request"][1], "a processed request")


def through_cache(processor, returned, **modalities):
    """Process a request of items that enter vLLM's cache or are in it; it returns `returned` for each."""
    new = {name: [size for _, size, _ in triples if size] for name, triples in modalities.items()}
    is_cached = {name: [size is None for _, size, _ in triples] for name, triples in modalities.items()}
    modalities = {
        name: [(key, returned, kept) for key, _, kept in triples] for name, triples in modalities.items()
    }
    answer = processed(**modalities).wrapped

    def original(asked):
        processor.merge_cached(lambda: None, answer["mm_hashes"], is_cached, new)
        return answer

    processor.process_request(original, request())


@pytest.mark.parametrize("returned", [None, {"address": 1}])
def test_a_cached_item_counts_as_much_as_the_first_time(monkeypatch, caplog, returned):
    """Whatever vLLM's cache returns for items, those that enter it included."""
    monkeypatch.setattr(
        stock, "kind_of", lambda items, modality: "rows" if items == "embeddings" else "pixels"
    )
    caplog.set_level(logging.DEBUG, "vllm.tokenprune.requests")
    processor = Processor()
    counter = processor._counter
    images = {"image": [("a", 144, 48), ("b", 100, 48)], "video": [("c", 300, 60)]}
    through_cache(processor, returned, **images)
    through_cache(processor, returned, image=[("b", None, 48), ("a", None, 48)])
    through_cache(processor, returned, image=[("z", None, 48), ("a", None, 48)])  # cached before we looked
    counter.count("embeddings", processed(image=[("e", 20, 20)]), from_cache=False)
    counter.count("pixels", processed(), from_cache=False)
    found = {key[0].removeprefix("tokenprune:"): n for key, n in Counter.exposed.items() if n}
    assert found == {
        "requests_total": 3,
        "items_total": 7,
        "visual_tokens_before_total": 544 + 244 + 144,
        "visual_tokens_after_total": 156 + 96 + 48,
        "items_of_unknown_size_total": 1,
    }
    assert caplog.messages == [
        "tokenprune: stride kept 156 of 544 visual tokens of 3 items (0 of unknown size): a, b, c",
        "tokenprune: stride kept 96 of 244 visual tokens of 2 items (0 of unknown size): b, a",
        "tokenprune: stride kept 48 of 144 visual tokens of 2 items (1 of unknown size): z, a",
    ]


def test_the_least_recently_used_sizes_are_dropped(monkeypatch):
    monkeypatch.setattr(stock, "kind_of", lambda items, modality: "pixels")
    monkeypatch.setattr(requests, "MAX_SIZES", 2)
    processor = Processor()
    for key, size in (("a", 10), ("b", 20), ("a", None), ("c", 30), ("b", None), ("a", None)):
        through_cache(processor, None, image=[(key, size, 5)])
    found = {key[0]: n for key, n in Counter.exposed.items()}
    assert found["tokenprune:items_of_unknown_size_total"] == 1  # b
    assert found["tokenprune:visual_tokens_before_total"] == 10 + 20 + 10 + 30 + 10


class Processor(PruningProcessor):
    """A processor without vLLM's part."""

    def __init__(self):
        self.info = Info()
        self.info.request_budget = Settings.parse({"method": "stride", "keep": 48}).request_budget
        self._counter = RequestCounter(self.info)


def request(arguments=(), media=()):
    return types.SimpleNamespace(
        mm_data_items="pixels", hf_processor_mm_kwargs=dict(arguments), media_io_kwargs=dict(media)
    )


def test_a_processor_counts_requests_and_not_the_profiling_run(monkeypatch):
    monkeypatch.setattr(stock, "kind_of", lambda items, modality: "pixels")
    processor, answer = Processor(), processed(image=[("a", 144, 48)]).wrapped

    def profile():
        assert processor.process_request(lambda: answer, request()) is answer
        return "inputs"

    assert processor.profiling_inputs(profile) == "inputs"
    assert not any(Counter.exposed.values())
    assert processor.process_request(lambda asked: answer, request()) is answer
    assert Counter.exposed["tokenprune:requests_total", "llava", "stride"] == 1
    assert Counter.exposed["tokenprune:visual_tokens_before_total", "llava", "stride"] == 144


ENTRY = {"tokenprune": {"keep": 8}}


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        (request({"tokenprune": {"keep": 0}}), "budget", "at least 1"),
        (request({"images_kwargs": ENTRY}), "misplaced", "would be ignored in 'images_kwargs' of"),
        (
            request(media={"image": ENTRY}),
            "misplaced",
            "would be ignored in 'image' of",
        ),
    ],
)
def test_a_processor_refuses_a_request_before_it_is_processed(asked, reason, words):
    with pytest.raises(BudgetError, match=words):
        Processor().process_request(lambda _: pytest.fail("processed"), asked)
    found = {key: n for key, n in Counter.exposed.items() if n}
    assert found == {("tokenprune:requests_refused_total", "llava", "stride", reason): 1}


def test_errors_of_the_methods_and_sizes_are_counted_and_others_are_not(monkeypatch):
    monkeypatch.setattr(stock, "kind_of", lambda items, modality: "pixels")
    processor = Processor()

    def failing(error):
        def original(asked):
            raise error

        return original

    for error in (ItemSizeError("too large"), BudgetError("too many"), ValueError("vLLM's own")):
        with pytest.raises(ValueError, match=str(error)):
            processor.process_request(failing(error), request())
    found = {key[-1]: n for key, n in Counter.exposed.items() if n}
    assert found == {"item_size": 1, "budget": 1}
