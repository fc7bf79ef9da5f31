# SPDX-License-Identifier: Apache-2.0
"""Load a vision-language model of transformers by name, for programs that prune it.

Importing this module loads neither torch nor transformers, so that a command line can offer `Device` and
`Precision` without delay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Device(str, Enum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, Enum):
    """The model's dtype; `auto` is float32 on the CPU and the checkpoint's own on a GPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def load_model(
    source: str | Path,
    device: Device = Device.auto,
    precision: Precision = Precision.auto,
    trust_remote_code: bool = False,
    attention: str | None = None,
    local_files_only: bool = False,
    label: str | None = None,
    revision: str | None = None,
    device_map: str | None = None,
) -> tuple[Any, Any]:
    """Load a model and its processor, in evaluation mode.

    Weights are read from safetensors files only, which hold no code.

    Parameters
    ----------
    source
        A local directory or a model id on the Hub.
    trust_remote_code
        Run code that comes with the checkpoint.
    attention
        Name of an attention implementation of transformers; None lets transformers choose.
    local_files_only
        Never contact the Hub.
    label
        What error messages call the model; None means by its source.
    revision
        Branch, tag or commit of a model id on the Hub.
    device_map
        Distribution over devices as in transformers, which requires accelerate; instead of `device`.

    Raises
    ------
    InputError
        If the device is missing, the model does not load, or it is not a chat model that takes images.
    """
    from tokenprune import InputError

    place = "cpu" if device_map == "cpu" else place_of(device)
    dtype = "float32" if precision is Precision.auto and place == "cpu" else precision.value
    what = _called(source, label)
    load_config(source, trust_remote_code, local_files_only, label, revision)
    options = _hub_options(trust_remote_code, local_files_only, revision)
    try:
        model, processor, missing = _load(source, dtype, attention, device_map, options)
    except Exception as error:  # transformers and the Hub raise many types; all mean that it does not load
        raise InputError(f"{what} does not load: {first_line(error)}") from None
    if missing:
        raise InputError(
            f"{what} is incomplete: its files lack {len(missing)} weights, {missing[0]} among them"
        )
    if getattr(processor, "image_processor", None) is None or not getattr(processor, "chat_template", None):
        raise InputError(f"{what} has no processor with an image processor and a chat template beside it")
    return (model if device_map is not None else model.to(place)).eval(), processor


def load_config(
    source: str | Path,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    label: str | None = None,
    revision: str | None = None,
) -> Any:
    """Load the configuration of a chat model that takes images; the parameters are those of `load_model`.

    Raises
    ------
    InputError
        If the configuration does not load, a revision of a directory is requested or, without
        `trust_remote_code`, it is of another kind of model.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    from tokenprune import InputError

    what = _called(source, label)
    check_directory(source, what)
    if revision is not None and os.path.isdir(source):
        raise InputError(f"revision={revision} requires a model id on the Hub; {what} is a directory")
    try:
        config = AutoConfig.from_pretrained(
            source, **_hub_options(trust_remote_code, local_files_only, revision)
        )
    except Exception as error:  # transformers and the Hub raise many types; all mean that it does not load
        raise InputError(f"{what} does not load: {first_line(error)}") from None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trust_remote_code:
        raise InputError(f"{what} is of type {config.model_type!r}, which is no image-and-text chat model")
    return config


def place_of(device: Device) -> str:
    """Resolve a device to "cuda" or "cpu".

    Raises
    ------
    InputError
        If a GPU is requested and there is none.
    """
    import torch

    from tokenprune import InputError

    if device is Device.cuda and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch finds no usable NVIDIA GPU on this machine; use --device cpu"
        )
    return "cuda" if device is not Device.cpu and torch.cuda.is_available() else "cpu"


def precision_of(precision: Precision, place: str) -> torch.dtype:
    """The dtype of a model without a checkpoint; `auto` is bfloat16 on a GPU."""
    import torch

    auto = "float32" if place == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, auto if precision is Precision.auto else precision.value)
    return dtype


def check_directory(source: str | Path, what: str) -> None:
    """Refuse a source that looks like a local directory but is not one, without contacting the Hub.

    Raises
    ------
    InputError
        With a message that begins with `what`.
    """
    from tokenprune import InputError

    if os.path.isdir(source):  # unlike Path.is_dir, accepts names of any length
        if not os.path.isfile(os.path.join(source, "config.json")):
            raise InputError(f"{what} does not load: the directory holds no config.json")
    elif os.path.exists(source):
        raise InputError(f"{what} does not load: it is a file; give the directory with config.json")
    elif os.path.isabs(source) or str(source).startswith((".", "~")) or str(source).count("/") > 1:
        raise InputError(f"{what} does not load: there is no such directory")


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's message, or the name of its class.

    A line that ends in a colon is joined with the next one.
    """
    message = ""
    for line in filter(None, map(str.strip, str(error).splitlines())):
        message = f"{message} {line}".strip()
        if not message.endswith(":"):
            break
    return message or type(error).__name__


def _called(source: str | Path, label: str | None) -> str:
    """Name a model in a message."""
    return f"the model '{source}'" if label is None else label


def _hub_options(trust_remote_code: bool, local: bool, revision: str | None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where files come from."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    return options if revision is None else {**options, "revision": revision}


def _load(
    source: str | Path,
    dtype: str,
    attention: str | None,
    device_map: str | None,
    options: Mapping[str, Any],
) -> tuple[Any, Any, list[str]]:
    """Load the model and the processor; also return the names of missing weights."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    chosen = {"attn_implementation": attention, "device_map": device_map}
    processor = AutoProcessor.from_pretrained(source, **options)
    model, info = AutoModelForImageTextToText.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **{name: value for name, value in chosen.items() if value is not None},
        **options,
    )
    return model, processor, sorted(info["missing_keys"])
