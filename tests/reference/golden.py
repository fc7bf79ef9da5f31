# SPDX-License-Identifier: Apache-2.0
"""Reading the golden vectors. A missing file raises, so its test fails."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent.parent / "golden"


def load(name: str) -> dict[str, Tensor]:
    """Arrays of one golden file as tensors (texts are left out)."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {
            key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiub"
        }


def names(pattern: str, *known: str) -> list[str]:
    """Names of the golden files of a pattern, in order, those in `known` among them even if they are lost."""
    return sorted({*known, *(path.stem for path in FOLDER.glob(f"{pattern}.npz"))})
