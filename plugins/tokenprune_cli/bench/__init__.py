# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench`: time a model, pruned and unpruned, and the fastest that any pruning could be."""
