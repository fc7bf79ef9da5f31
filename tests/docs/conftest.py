# SPDX-License-Identifier: Apache-2.0
from untrained import scenes, untrained, untrained_model

__all__ = ["scenes", "untrained", "untrained_model"]
