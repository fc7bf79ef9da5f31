# SPDX-License-Identifier: Apache-2.0
"""Cut visual tokens inside the vision tower of a vision-language model.

The tower runs short from a block on. At one point its output is widened: the place of each dropped token is
filled with the row of a survivor, so that no code of the model notices, and the engine drops exactly the
filled rows before the language model. `parts` describes a tower, `cuts` holds the hooks, `run` is one run of
it over the images of a call (a `tokenprune.towers.run.TowerRun`), `gather` shortens the arguments of blocks,
`signals` is what strategies can read, and `checks` refuses cuts that a tower cannot make.
"""
