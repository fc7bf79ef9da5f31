# SPDX-License-Identifier: Apache-2.0
"""The vLLM plugin of tokenprune. vLLM loads it by its entry point; unconfigured, it has no effect."""
