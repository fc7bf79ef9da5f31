# SPDX-License-Identifier: Apache-2.0
"""Count what a server prunes: counters on vLLM's /metrics endpoint, and one summary a minute in the log.

This module does not import vLLM, whose /metrics endpoint shows every counter of prometheus_client's registry,
also with several API servers: they share the folder PROMETHEUS_MULTIPROC_DIR.
"""

from __future__ import annotations

import atexit
import functools
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

logger = logging.getLogger("vllm.tokenprune")

LABELS = ("model_name", "method")
COUNTERS = {
    "requests": "Requests with images or videos that were processed.",
    "items": "Images and videos of these requests, cached or not.",
    "visual_tokens_before": "Visual tokens of the items without pruning.",
    "visual_tokens_after": "Visual tokens of the items that were kept.",
    "items_of_unknown_size": "Cached items whose size is not stored; the token counts omit them.",
}
REFUSED = "Requests that tokenprune refused, by reason."
REASONS = ("budget", "item_size", "unknown_item", "misplaced", "processor_arguments", "invalid_json")
SUMMARY_SECONDS = 60


@dataclass
class Tally:
    """Counts of one request or of one minute."""

    requests: int = 0
    items: int = 0
    visual_tokens_before: int = 0
    visual_tokens_after: int = 0
    items_of_unknown_size: int = 0
    refused: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


class Counts:
    """Counts of one model and method in this process; make them with `counts_of`."""

    def __init__(self, model_name: str, method: str) -> None:
        self.method = method
        self._lock = threading.Lock()
        self._window, self._window_start = Tally(), 0.0
        self._timer: threading.Timer | None = None
        self._counters: dict[str, Any] = {}
        for name, counter in prometheus_counters().items():
            for reason in REASONS if name == "requests_refused" else (None,):
                labels = (model_name, method) if reason is None else (model_name, method, reason)
                self._counters[reason or name] = counter.labels(*labels)  # shown as 0 from now on
        atexit.register(self.log_summary)

    def add(self, tally: Tally) -> None:
        """Count a processed request."""
        for name in COUNTERS:
            if name in self._counters:
                self._counters[name].inc(getattr(tally, name))
        self._add_to_window(tally)

    def refuse(self, reason: str) -> None:
        """Count a request that was refused for one of the `REASONS`."""
        if reason in self._counters:
            self._counters[reason].inc()
        self._add_to_window(Tally(refused=1))

    def log_summary(self) -> None:
        """Log the requests since the last summary, if there are any."""
        with self._lock:
            tally, self._window = self._window, Tally()
            timer, self._timer = self._timer, None
            seconds = max(1, round(time.monotonic() - self._window_start))
        if timer is None:
            return
        timer.cancel()
        unknown = f", {tally.items_of_unknown_size} items of unknown size" * (tally.items_of_unknown_size > 0)
        logger.info(
            "tokenprune: %s, in the last %d s: %d requests, %d items, kept %d of %d visual tokens%s, "
            "%d refused",
            self.method,
            seconds,
            tally.requests,
            tally.items,
            tally.visual_tokens_after,
            tally.visual_tokens_before,
            unknown,
            tally.refused,
        )

    def _add_to_window(self, tally: Tally) -> None:
        with self._lock:
            self._window += tally
            if self._timer is None:  # the first request of a window starts it, so an idle server logs nothing
                self._window_start = time.monotonic()
                self._timer = threading.Timer(SUMMARY_SECONDS, self.log_summary)
                self._timer.daemon = True
                self._timer.start()


@functools.cache
def counts_of(model_name: str, method: str) -> Counts:
    """Return the counts of a model and method in this process."""
    counts = Counts(model_name, method)
    _ACTIVE.append(counts)
    return counts


_ACTIVE: list[Counts] = []


def active_counts() -> Counts | None:
    """Return the counts of the engine that this process serves. None if pruning is not configured."""
    return _ACTIVE[-1] if _ACTIVE else None


@functools.cache
def prometheus_counters() -> Mapping[str, Any]:
    """Register the counters with prometheus_client. Logs a warning if it is not installed."""
    try:
        from prometheus_client import Counter
    except ImportError:
        logger.warning("tokenprune: prometheus_client is not installed; /metrics has no counters of pruning")
        return {}
    made = {name: Counter(f"tokenprune:{name}", text, LABELS) for name, text in COUNTERS.items()}
    made["requests_refused"] = Counter("tokenprune:requests_refused", REFUSED, (*LABELS, "reason"))
    return made
