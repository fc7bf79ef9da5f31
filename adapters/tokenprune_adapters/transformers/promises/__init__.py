# SPDX-License-Identifier: Apache-2.0
"""Check the promises of a pruned model against reference runs of stock code on the kept rows.

Nothing here uses the engine except its reports, which say what tokens a method chose. References are runs of
the unpruned model, observed by the hooks of these modules, and calls of its language model or decoder layers
with rows, positions and masks that are computed independently.
"""
