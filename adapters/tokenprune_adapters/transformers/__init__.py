# SPDX-License-Identifier: Apache-2.0
"""Cutting inside stock transformers models: instance hooks, and cache layers that store less than they saw.

The way of a call: `engine` sees the model called and finds the images (`images`, `capture`); before the
language model runs it lets the method choose, gathers the rows that stay (`plan`) and, when the language
model is done, widens its output back and tells the cache (`cache`) what was left out.
"""
