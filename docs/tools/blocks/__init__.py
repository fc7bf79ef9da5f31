# SPDX-License-Identifier: Apache-2.0
"""Functions that write the generated blocks of the documentation, a file for each page."""
