# SPDX-License-Identifier: Apache-2.0
"""Entry point of `python -m benchmarks.paper`."""

import sys

from benchmarks.paper.run import main

sys.exit(main())
