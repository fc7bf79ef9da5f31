# SPDX-License-Identifier: Apache-2.0
"""The official algorithms timed beside ours."""
