# SPDX-License-Identifier: Apache-2.0
"""Prune stock transformers models with instance hooks and cache layers that store fewer tokens than seen.

The files from the bottom up; each imports only from files listed before it:

- `stock`, `signature`, `calls`, `resolved`: the names that transformers uses, found by signature.
- `facts`: where the parts of a vision-language model are; the only interface of an adapter that the following
  files, up to the engine, use.
- `call` and the files it is made of (`images`, `rows`, `plan`, `masks`, `packing`, `pruned_layer`): the state
  of one call, and which of its rows are kept.
- `encoded`, `capture`, `tap`, `front_signals`, `decoder_signals`: what strategies can read.
- `choosing`, `decoder`, `receipts`: run the methods, drop rows before layers, check what was stored.
- `engine`: the hooks of one pruned model. `rehearsal` tests them on a few rows, `promises` compares a pruned
  model with reference runs of stock code.
- `vlm`: the adapter that families derive from.

During a call, `capture` records the encoded images; before the language model runs, `choosing` locates the
rows of the images and runs the method, and the engine gathers the kept rows; afterwards the engine expands
the output to the prompt's length and records in the cache layers what was dropped.
"""
