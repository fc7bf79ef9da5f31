# SPDX-License-Identifier: Apache-2.0
"""How many tokens of pages and screens the selector `duplicates` keeps, and its time."""
