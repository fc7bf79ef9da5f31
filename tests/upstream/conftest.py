# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests beside ours, the mode of a run, and a record of what became of each test."""

import gc
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # tests that want the hub skip themselves
# to the suite: start no process for a test, as it would lack our options
os.environ["_INSIDE_SUB_PROCESS"] = "1"

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # this folder's own modules

import stand_ins
from modes import MODES

torch.set_num_threads(1)  # tensors are tiny here: threads would only wait for each other


def pytest_addoption(parser):
    group = parser.getgroup("upstream")
    group.addoption("--suite", type=Path, help="folder that holds transformers' `tests`")
    group.addoption("--mode", choices=list(MODES), default="stock", help="how models are pruned")
    group.addoption("--record", type=Path, help="write a JSON line for each test to this file")


def pytest_configure(config):
    suite = config.getoption("--suite")
    if suite is None or not (suite / "tests/test_modeling_common.py").is_file():
        raise pytest.UsageError(
            f"--suite {suite} holds no tests/test_modeling_common.py of transformers; `make test-upstream` "
            "fetches it and runs everything, `python tests/upstream/fetch.py` prints where it lies"
        )
    sys.path.insert(0, str(suite))
    stand_ins.put_in()
    if config.getoption("--record") is not None:
        config.pluginmanager.register(Record(config.getoption("--record")))


class Record:
    """Writes what became of each test at once: a run that is killed leaves what it has."""

    def __init__(self, path):
        self.path, self.found, self.n_written = path, {}, 0

    def pytest_collection_finish(self, session):
        self.path.write_text(json.dumps({"collected": len(session.items)}) + "\n")

    def pytest_runtest_logreport(self, report):
        found = self.found.setdefault(report.nodeid, {"seconds": 0.0})
        found["seconds"] += report.duration
        is_part = hasattr(report, "context")  # a subtest, whose skipping is not the test's
        if report.failed:
            found.setdefault("why", reason(report))
            found["outcome"] = "failed"
        elif report.skipped and not is_part:
            found.setdefault("outcome", "skipped")
            found.setdefault("why", reason(report))
        elif report.when == "call" and not is_part:
            found.setdefault("outcome", "passed")

    def pytest_runtest_logfinish(self, nodeid):
        found = self.found.pop(nodeid)
        line = {"test": nodeid.split("::", 1)[1], **found, "seconds": round(found["seconds"], 2)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.n_written += 1
        if self.n_written % 100 == 0:  # models lie in circles; looking for them takes half a second
            gc.collect()


def reason(report):
    """The error's own line, or why a test was skipped."""
    if report.skipped:
        return str(report.longrepr[2])[:300]
    crash = getattr(report.longrepr, "reprcrash", None)
    return (str(report.longrepr) if crash is None else crash.message)[:1000]
