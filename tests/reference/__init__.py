# SPDX-License-Identifier: Apache-2.0
"""The papers' equations said again, slowly and plainly, without the product's code. Only tests use this."""
