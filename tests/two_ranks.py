# SPDX-License-Identifier: Apache-2.0
"""Run a script in two processes that torch.distributed.run starts on this machine."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path


def run_two_ranks(script, folder):
    """Run the text of a script, and return what its ranks wrote to `rank0.json` and `rank1.json`.

    The script gets the folder as its argument.
    """
    path = folder / "ranks.py"
    path.write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    done = subprocess.run(
        [*command, path, folder],
        env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
