# SPDX-License-Identifier: Apache-2.0
"""Refuse to copy or pickle a pruned model, whose hooks refer to the original."""

from __future__ import annotations

from typing import Any, NoReturn

from .errors import UnsupportedCallError


class NotCopied:
    """Refuses to be copied, as a copy of the model would share the state of the original."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise UnsupportedCallError(
            "a pruned model cannot be copied or pickled; call remove() on its handle first, and prune the "
            "copy with its own apply() (save_pretrained works on a pruned model)"
        )
