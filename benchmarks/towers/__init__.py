# SPDX-License-Identifier: Apache-2.0
"""What pruning inside a vision tower costs and saves: the figures of docs/vision-towers.md."""
