# SPDX-License-Identifier: Apache-2.0
"""Programs that measure, train and draw: `python -m benchmarks.NAME` in a checkout; not in the wheel."""
