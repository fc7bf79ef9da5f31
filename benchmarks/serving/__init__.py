# SPDX-License-Identifier: Apache-2.0
"""What pruning is worth to a server."""
