# SPDX-License-Identifier: Apache-2.0
"""Measure accuracy and speed of pruned vision towers: the figures of docs/vision-towers.md."""
