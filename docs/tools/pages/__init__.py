# SPDX-License-Identifier: Apache-2.0
"""Pages whose generated blocks are filled from records."""
