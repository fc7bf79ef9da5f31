# SPDX-License-Identifier: Apache-2.0
"""The arguments in `--model_args` about the checkpoint, its precision and its images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenprune_adapters.loading import Device, Precision

from tokenprune import InputError
from tokenprune_lmms_eval.system_prompts import read_system_prompt

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Loading:
    """Arguments other than those of pruning.

    Parameters
    ----------
    pretrained
        `embedded`, a directory, or a model id on the Hub.
    dtype
        auto (float32 on the CPU, the checkpoint's own on a GPU), float32, bfloat16 or float16.
    trust_remote_code
        Whether to run code from the checkpoint.
    revision
        Branch, tag or commit of a model id on the Hub.
    attn_implementation
        Name of an attention implementation of transformers; None lets transformers choose.
    device_map
        How to distribute the model over devices, for accelerate; instead of `--device`.
    system_prompt
        A name of `system_prompts`, or a file, whose text is prepended to every conversation.
    max_new_tokens
        Default for tasks that do not set it; 1024 as in lmms-eval's own LLaVA.
    pad_to_square
        Whether to pad images to squares with the processor's mean colour.
    min_pixels, max_pixels
        Bounds of an image's size, for processors that preserve its aspect ratio.
    clip
        For CDPruner: the CLIP checkpoint whose text tower encodes the question.
    """

    pretrained: str
    dtype: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None
    attn_implementation: str | None = None
    device_map: str | None = None
    system_prompt: str | None = None
    max_new_tokens: int = 1024
    pad_to_square: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    clip: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in [precision.value for precision in Precision]:
            listed = ", ".join(precision.value for precision in Precision)
            raise InputError(f"dtype must be one of {listed}, got {self.dtype!r}")
        for name in ("trust_remote_code", "pad_to_square"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name in ("revision", "attn_implementation", "device_map"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise InputError(f"{name} must be a string, got {value!r}")
        is_map = self.device_map in DEVICE_MAPS or re.fullmatch(r"cpu|cuda(:\d+)?", self.device_map or "cpu")
        if not is_map:
            listed = ", ".join(DEVICE_MAPS)
            raise InputError(f"device_map must be {listed}, cpu, cuda or cuda:N, got {self.device_map!r}")
        for name in ("max_new_tokens", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            is_set = value is not None or name == "max_new_tokens"
            if is_set and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be an integer, 1 or more, got {value!r}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the arguments."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def system_text(self) -> str | None:
        """Return the text of the system prompt, without surrounding whitespace, or None.

        Raises
        ------
        InputError
            If it is neither a name nor a file that can be read, or is empty.
        """
        return None if self.system_prompt is None else read_system_prompt(str(self.system_prompt))

    def check_device_map(self, device: str | None) -> None:
        """Check that the map does not contradict `--device` or the number of processes.

        Raises
        ------
        InputError
            If both are given, or several processes would each take all devices.
        """
        if self.device_map is None:
            return
        if device is not None:
            raise InputError(f"device_map={self.device_map} cannot be combined with --device {device}")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise InputError(f"device_map={self.device_map} requires a single process")

    @property
    def precision(self) -> Precision:
        """The dtype to load the model in."""
        return Precision(self.dtype)

    @staticmethod
    def read_device(device: str | None) -> Device:
        """Parse `--device`. With `cuda:N` GPU N becomes the current device.

        Raises
        ------
        InputError
            If it is not cpu, cuda or cuda:N, the GPU does not exist, or several processes would share it.
        """
        name, _, number = (device or "auto").partition(":")
        if name not in [device.value for device in Device] or (
            number and (name != "cuda" or not number.isdigit())
        ):
            raise InputError(f"--device must be cpu, cuda or cuda:N, got {device!r}")
        if number:
            if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
                raise InputError(f"--device {device} is one GPU for several processes; use cuda")
            if int(number) >= torch.cuda.device_count():
                raise InputError(f"--device {device}: PyTorch finds {torch.cuda.device_count()} NVIDIA GPUs")
            torch.cuda.set_device(int(number))
        return Device(name)


def split_arguments(arguments: Mapping[str, Any]) -> tuple[Loading, dict[str, Any]]:
    """Split the model arguments into those about loading and the rest.

    Raises
    ------
    InputError
        If no checkpoint is named, or a value is invalid.
    """
    loading = {name: value for name, value in arguments.items() if name in Loading.names()}
    if not loading.get("pretrained"):
        raise InputError("--model_args must name a checkpoint: pretrained=embedded, a directory or a hub id")
    loading["pretrained"] = str(loading["pretrained"])
    if isinstance(loading.get("revision"), int):  # lmms-eval parses digits
        loading["revision"] = str(loading["revision"])
    return Loading(**loading), {name: value for name, value in arguments.items() if name not in loading}
