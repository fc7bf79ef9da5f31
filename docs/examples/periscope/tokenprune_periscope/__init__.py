# SPDX-License-Identifier: Apache-2.0
"""Periscope, a small vision-language model (`model`), and its adapter for tokenprune (`adapter`)."""
