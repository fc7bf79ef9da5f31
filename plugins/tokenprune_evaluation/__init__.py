# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures, answered by pruned models: files, metrics and costs; nothing here prints.

Shared by the command line (`tokenprune_cli`) and `tokenprune_calibrate`.
"""
