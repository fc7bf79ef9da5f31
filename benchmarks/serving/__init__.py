# SPDX-License-Identifier: Apache-2.0
"""Measure the speed-up of a vLLM server by pruning."""
