# SPDX-License-Identifier: Apache-2.0
"""A new package with a plugin, from templates."""
