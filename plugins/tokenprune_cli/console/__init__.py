# SPDX-License-Identifier: Apache-2.0
"""What commands share: options, models and files by name, progress, and how they fail."""
