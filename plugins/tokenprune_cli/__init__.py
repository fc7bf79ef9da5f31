# SPDX-License-Identifier: Apache-2.0
"""The command line of tokenprune, and what its commands measure."""
