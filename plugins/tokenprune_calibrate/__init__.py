# SPDX-License-Identifier: Apache-2.0
"""Certify a pruning setting on your own requests: the cheapest whose risk is at most a limit."""
