# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`: what pruning is worth to a server."""
