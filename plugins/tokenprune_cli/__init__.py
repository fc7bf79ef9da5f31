# SPDX-License-Identifier: Apache-2.0
"""The command line of tokenprune, what its commands measure, and the embedded model."""
