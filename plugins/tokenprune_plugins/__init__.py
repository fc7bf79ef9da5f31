# SPDX-License-Identifier: Apache-2.0
"""The built-in strategies, one file each; found through entry points, like third-party ones."""
