# SPDX-License-Identifier: Apache-2.0
"""Measuring what pruning costs in accuracy and saves in memory and operations; nothing here prints."""
