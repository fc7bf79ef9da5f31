# SPDX-License-Identifier: Apache-2.0
"""Raises ImportError: this module has moved to the package `tokenprune_visualize`."""

raise ImportError("tokenprune.visualize is now a package of its own: import tokenprune_visualize")
