# SPDX-License-Identifier: Apache-2.0
"""`tokenprune check`: which models are checked, on what, and how it is shown."""
