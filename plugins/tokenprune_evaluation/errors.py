# SPDX-License-Identifier: Apache-2.0
"""The error for invalid input of the user; the command line prints its message and exits with 2."""


class BadInputError(Exception):
    """Invalid input of the user; the message says what is wrong, why, and what to do."""
