# SPDX-License-Identifier: Apache-2.0
"""tokenprune inside vLLM: a plugin found by its entry point, which does nothing unless configured."""
