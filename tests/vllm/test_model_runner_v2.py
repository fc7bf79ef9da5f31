# SPDX-License-Identifier: Apache-2.0
"""vLLM's Model Runner V2, the default on GPUs: one of the other tests, run with it in a process of its own.

vLLM reads the environment when it is imported. `make test-vllm-v2` runs more of the tests this way.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TEST = "test_a_prefill_in_pieces_changes_nothing[qwen]"


def test_a_prefill_in_pieces_changes_nothing_with_the_second_runner():
    # `engines.engine` checks which runner an engine has
    asked = ["-m", "pytest", "-W", "ignore", "-p", "no:cacheprovider", f"{HERE / 'test_engine.py'}::{TEST}"]
    done = subprocess.run(
        [sys.executable, *asked],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, "VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-3000:]
