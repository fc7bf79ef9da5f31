# SPDX-License-Identifier: Apache-2.0
"""Every method on the same embedded scenes at the same budget, against what was measured before."""
