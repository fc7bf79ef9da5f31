# SPDX-License-Identifier: Apache-2.0
"""Distribution-free tests of a bounded mean, and their combination over settings; numpy only."""
