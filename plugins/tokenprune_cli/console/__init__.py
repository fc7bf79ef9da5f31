# SPDX-License-Identifier: Apache-2.0
"""What the commands share: options, loading of models, files, progress and error messages."""
