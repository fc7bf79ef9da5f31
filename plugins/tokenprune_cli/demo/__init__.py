# SPDX-License-Identifier: Apache-2.0
"""What `tokenprune demo` measures, concludes and draws; printing is the command line's."""
