#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests and speed on this machine's NVIDIA GPU, within eight minutes: benchmarks/gpu/run.sh --out DIR
# Nothing is installed: it needs a Python with torch, transformers, pytest, hypothesis, typer, rich, jinja2 and pluggy.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [[ -n ${PYTHON:-} ]]; then
    python=$PYTHON
elif [[ -x $root/.venv/bin/python ]]; then
    python=$root/.venv/bin/python
else
    python=python3
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m benchmarks.gpu "$@"
