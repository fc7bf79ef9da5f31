# SPDX-License-Identifier: Apache-2.0
"""Adapters for model families, one file each; found through their entry points."""
