# SPDX-License-Identifier: Apache-2.0
"""Measuring speed: a model, pruned and not, beside the fastest that any pruning could be."""
