# SPDX-License-Identifier: Apache-2.0
"""What `tokenprune compare` runs, keeps, concludes and draws; printing is the command line's."""
