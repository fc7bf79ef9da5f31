# SPDX-License-Identifier: Apache-2.0
"""Prune inside a vision transformer with hooks on its blocks, whatever library it comes from.

`tower` describes the parts of a model, `attention` records queries and keys, `head` is the map from a token
to the output, `signals` are what strategies can read. `choice` runs a method, `cuts` drops tokens, with
`hooks`. `adapter` is the base class for the adapters of libraries.
"""
