# SPDX-License-Identifier: Apache-2.0
"""Records of measurements as dataclasses: their JSON format, and how they were made."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PACKAGES = ("tokenprune-vlm", "torch", "transformers")
TITLES = {"python": "Python", "torch": "PyTorch", "vllm": "vLLM"}


class RecordError(ValueError):
    """A record has wrong fields or types; the message names the field."""


def to_dict(record: Any) -> Any:
    """Return a record as JSON values: dataclasses as dictionaries, NaN and infinity as None."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_dict(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(name): to_dict(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_dict(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def dumps(record: Any, indent: int = 1) -> str:
    """Return a record as a JSON string."""
    return json.dumps(to_dict(record), indent=indent, allow_nan=False)


def read(kind: type[T], path: Path) -> T:
    """Read a record from a JSON file; see `from_dict`."""
    return from_dict(kind, json.loads(path.read_text(encoding="utf-8")))


def from_dict(kind: type[T], value: Any) -> T:
    """Return the dataclass of a dictionary; None instead of a float is NaN.

    Raises
    ------
    RecordError
        For unknown or missing fields, or values of the wrong type.
    """
    decoded: T = _decoded(kind, value, "")
    return decoded


def _decoded(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _checked(value, Mapping, where), where)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        return _decoded(next(choice for choice in inner if choice is not types.NoneType), value, where)
    if origin in (list, tuple):
        items = _checked(value, list, where)
        if origin is list or inner[1:] == (Ellipsis,):
            inner = (inner[0],) * len(items)
        if len(items) != len(inner):
            raise RecordError(f"{where} has {len(items)} values instead of {len(inner)}")
        pairs = enumerate(zip(inner, items, strict=True))
        return origin([_decoded(each, item, f"{where}[{i}]") for i, (each, item) in pairs])
    if origin is dict:
        entries = _checked(value, Mapping, where).items()
        return {name: _decoded(inner[1], entry, _joined(where, name)) for name, entry in entries}
    if kind is float:
        return math.nan if value is None else float(_checked(value, (int, float), where))
    return _checked(value, kind, where)


def _dataclass(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    for name in value:
        if name not in fields:
            raise RecordError(f"unknown field '{_joined(where, name)}'; fields: {', '.join(fields)}")
    for name, field in fields.items():
        optional = field.default, field.default_factory
        if name not in value and optional == (dataclasses.MISSING, dataclasses.MISSING):
            raise RecordError(f"the field '{_joined(where, name)}' is missing")
    return kind(**{name: _decoded(hints[name], value[name], _joined(where, name)) for name in value})


def _checked(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecordError(f"'{where or 'the record'}' cannot be {json.dumps(value)[:60]}")
    return value


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


@dataclass(frozen=True)
class Machine:
    """The kind of machine that a record was made on, without anything that identifies it."""

    system: str
    architecture: str
    cores: int | None
    threads: int
    processor: str | None = None
    gpu: str | None = None

    @classmethod
    def here(cls, device: torch.device | None = None) -> Machine:
        """Describe this machine, and its GPU if `device` is one."""
        import torch

        on_gpu = device is not None and device.type == "cuda"
        return cls(
            platform.system(),
            platform.machine(),
            os.cpu_count(),
            torch.get_num_threads(),
            _processor(),
            torch.cuda.get_device_name(device) if on_gpu else None,
        )

    def __str__(self) -> str:
        """Return a description such as "1 of 2 cores (AMD EPYC, x86_64, Linux)"."""
        all_cores = self.cores is None or self.threads >= self.cores
        count = f"{self.threads}" if all_cores else f"{self.threads} of {self.cores}"
        cores = f"{count} core{'' if (self.cores or self.threads) == 1 else 's'}"
        facts = (self.processor if self.gpu is None else None, self.architecture, self.system)
        return f"{self.gpu or cores} ({', '.join(filter(None, facts))})"


@dataclass(frozen=True)
class Provenance:
    """The command, machine and versions that a record was made with.

    Records are derived from it, and created by `Record(**vars(Provenance.here()), ...)`.
    """

    command: str
    machine: Machine
    versions: dict[str, str]

    @classmethod
    def here(
        cls,
        device: torch.device | None = None,
        *packages: str,
        program: str = "tokenprune",
        command: str | None = None,
    ) -> Provenance:
        """Describe this run.

        Parameters
        ----------
        device
            The device of the model; None: the CPU.
        packages
            Further distributions to name; those that are not installed are left out.
        program, command
            The command; None: the arguments of this process, after the name `program`.
        """
        versions = {name: _version(name) for name in ("python", *PACKAGES, *packages)}
        return Provenance(
            shlex.join([*program.split(), *sys.argv[1:]]) if command is None else command,
            Machine.here(device),
            {name: number for name, number in versions.items() if number is not None},
        )

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Provenance:
        """Return the provenance of a record in JSON, which has other fields too."""
        names = [field.name for field in dataclasses.fields(Provenance)]
        return from_dict(Provenance, {name: record[name] for name in names if name in record})

    @property
    def setup(self) -> str:
        """Machine and versions, as in "2 cores (AMD EPYC, x86_64, Linux), Python 3.11.7, PyTorch 2.15.0"."""
        versions = [f"{TITLES.get(name, name)} {number}" for name, number in self.versions.items()]
        return ", ".join([str(self.machine), *versions])

    def sentence(self) -> str:
        """Return a sentence in Markdown on how the record was made."""
        return f"Measured with `{self.command}` on {self.setup}."


def _version(name: str) -> str | None:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        return None
    return names[0] if names else None
