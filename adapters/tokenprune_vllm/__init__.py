# SPDX-License-Identifier: Apache-2.0
"""The vLLM plugin of tokenprune, found by its entry point; does nothing unless configured."""
