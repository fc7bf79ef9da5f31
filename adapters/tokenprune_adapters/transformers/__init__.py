# SPDX-License-Identifier: Apache-2.0
"""Cutting inside stock transformers models: instance hooks, and cache layers that store less than they saw.

The files from the bottom up; imports go downwards only:

- `stock`, `signature`, `calls`, `resolved`: what transformers calls things, found by signature.
- `facts`: where the parts of a vision-language model are. This is all that the files above it, up to the
  engine, know of an adapter.
- `call` and the files it is made of (`images`, `rows`, `plan`, `masks`, `packing`, `pruned_layer`): the state
  of one call, and which of its rows go on.
- `encoded`, `capture`, `tap`, `front_signals`, `decoder_signals`: what strategies may see.
- `choosing`, `decoder`, `receipts`: lets methods choose, drops rows before layers, checks what was stored.
- `engine`: the hooks of one pruned model. `rehearsal` tries them, `promises` checks a pruned model against
  stock code run by hand.
- `vlm`: the adapter that families derive from.

The way of a call: the engine sees the model called, and `capture` what is made of its images; before the
language model runs, `choosing` finds the rows of the images and asks the method; the engine gathers the rows
that stay and, when the language model is done, widens its output back and tells the cache layers what was
left out.
"""
