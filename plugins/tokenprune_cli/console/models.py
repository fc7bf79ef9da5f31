# SPDX-License-Identifier: Apache-2.0
"""Load the model that the user names, or the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenprune_adapters import loading
from tokenprune_adapters.loading import Device as Device
from tokenprune_adapters.loading import Precision as Precision
from tokenprune_adapters.loading import load_config as load_config
from tokenprune_adapters.loading import place_of as place_of
from tokenprune_adapters.loading import precision_of as precision_of


def load_model(
    name: str | None,
    device: Device = Device.auto,
    precision: Precision = Precision.auto,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[Any, Any]:
    """Load a model and its processor, by a local directory or a hub id; None: the embedded model."""
    from tokenprune_embedded import embedded_model_path

    embedded = name is None
    source: str | Path = embedded_model_path() if name is None else name
    label = "the embedded model" if embedded else None
    return loading.load_model(source, device, precision, trust_remote_code, attention, embedded, label)
