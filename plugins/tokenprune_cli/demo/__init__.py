# SPDX-License-Identifier: Apache-2.0
"""The measurements, conclusions and pictures of `tokenprune demo`; the command prints them."""
