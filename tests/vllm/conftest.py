# SPDX-License-Identifier: Apache-2.0
"""vLLM in this process, small and silent; checkpoints are saved once."""

import os

os.environ |= {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this folder's own modules

import checkpoints


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a function that gives the folder of a tiny model, saved on first use."""

    @functools.cache
    def folder(name):
        made = tmp_path_factory.mktemp(name)
        checkpoints.save(name, made)
        return made

    return folder
