# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`: measure the speed-up of a vLLM server by pruning."""
