# SPDX-License-Identifier: Apache-2.0
"""Cutting inside a vision transformer: hooks on its blocks, whatever library it comes from.

`tower` says where things are in a model, `attention` reads queries and keys where they pass, `head` is the
map from a token to the output, `signals` what strategies may see. `cuts` drops tokens, `choice` asks a method
which, with `hooks`. `adapter` is what the adapters of libraries derive from.
"""
