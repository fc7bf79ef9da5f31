# SPDX-License-Identifier: Apache-2.0
"""Time the official algorithms against ours."""
