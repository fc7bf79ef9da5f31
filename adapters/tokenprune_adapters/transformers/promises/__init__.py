# SPDX-License-Identifier: Apache-2.0
"""The promises of a pruned model, checked against stock code that is run by hand on the rows that stay.

Nothing here uses the engine: what a pruned model is compared with are runs of the unpruned one, watched by
hooks of these modules, and its language model or decoder layers called with rows, positions and masks that
are put together here once more. What the engine is asked for are its reports: which tokens a method chose.
"""
