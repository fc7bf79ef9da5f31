# SPDX-License-Identifier: Apache-2.0
"""What every cut inside a vision tower shares, whatever library the tower comes from.

`TowerImage` says where the tokens of an image are among the tower's rows, `TowerRun` chooses and gathers at
each cut of one run, and `Outcome` has what is left. Hooks, signals and outputs belong to the libraries: `vit`
for bare towers, `transformers.tower` for those of vision-language models.
"""
