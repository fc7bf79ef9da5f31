# SPDX-License-Identifier: Apache-2.0
"""Glue for model families; each file is found through its entry point."""
