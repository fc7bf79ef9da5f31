# SPDX-License-Identifier: Apache-2.0
"""The command line. Modules here import torch and transformers only inside commands: help is quick."""
