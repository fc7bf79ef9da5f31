# SPDX-License-Identifier: Apache-2.0
"""The commands. They import torch and transformers when they run, so that `--help` is fast."""
