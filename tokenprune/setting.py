# SPDX-License-Identifier: Apache-2.0
"""A calibrated setting: arguments of `apply` with what was certified about them, as a JSON file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .api import method
from .budget import cover
from .errors import InputError, UntestedVersionWarning

FORMAT = 1
ADVICE = "make one with `tokenprune calibrate`"
PARTS = ("arguments", "model", "certificate", "versions")
BUDGETS = ("keep", "keep_ratio", "cover")
N_VALUES = 64  # values of each weight that the fingerprint depends on


@dataclass(frozen=True)
class CalibratedSetting:
    """How to prune one model, and the certificate of it.

    Parameters
    ----------
    arguments
        `method` (a name), its `options`, and arguments of `apply` with values of JSON; `cover` has the
        arguments of `tokenprune.cover`, in place of `keep`. The engine vLLM takes them as its entry
        `tokenprune`.
    model
        The model that it was calibrated on: `name`, `architecture` (the class) and `weights` (`fingerprint`).
    certificate
        What was certified: loss, limit, confidence, sample; empty if nothing was.
    versions
        Versions of distributions that the answers may depend on, by name.
    """

    arguments: Mapping[str, Any]
    model: Mapping[str, str]
    certificate: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> CalibratedSetting:
        """Read a setting file.

        Raises
        ------
        InputError
            If the file cannot be read or is no setting of this format.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the setting file '{path}' cannot be read: {error}; {ADVICE}") from None
        lacking = _lacking(values)
        if lacking:
            raise InputError(f"'{path}' is no setting file: it lacks {', '.join(lacking)}; {ADVICE}")
        if values.get("format") != FORMAT:
            raise InputError(
                f"the setting file '{path}' has format {values.get('format')!r}, and this version of "
                f"tokenprune reads format {FORMAT}; {ADVICE}"
            )
        return cls(**{name: values[name] for name in PARTS})

    def save(self, path: str | Path) -> None:
        """Write a setting file."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def apply_arguments(self) -> dict[str, Any]:
        """Return keyword arguments of `tokenprune.apply`."""
        arguments = {
            name: value for name, value in self.arguments.items() if name not in ("options", "cover")
        }
        if "cover" in self.arguments:
            arguments["keep"] = cover(**self.arguments["cover"])
        return {**arguments, "method": method(arguments["method"], **self.arguments.get("options", {}))}

    def check(self, model: nn.Module) -> None:
        """Raise if this is another model than the one that was calibrated.

        Raises
        ------
        InputError
            If class or weights differ; also for the same weights in another dtype.
        """
        self.check_architecture([type(model).__name__])
        weights = fingerprint(model)
        if weights != self.model["weights"]:
            raise InputError(
                f"the setting was calibrated on {self.model['name']!r}, weights {self.model['weights']}, and "
                f"this one has other weights or another dtype ({weights}, {_dtype(model)}); load that model "
                "as it was calibrated, or calibrate this one"
            )

    def check_architecture(self, architectures: list[str]) -> None:
        """Raise InputError if a model of none of these classes was calibrated, and warn of other versions."""
        if self.model["architecture"] not in architectures:
            raise InputError(
                f"the setting was calibrated on a {self.model['architecture']} ({self.model['name']!r}), "
                f"not on a {', '.join(architectures)}; calibrate this model with `tokenprune calibrate`"
            )
        changed = [
            f"{name} {calibrated} (here {installed})"
            for name, calibrated in self.versions.items()
            if (installed := _installed(name)) not in (None, calibrated)
        ]
        if changed:
            warnings.warn(
                f"the setting was calibrated with {', '.join(changed)}; test it again with "
                "`tokenprune calibrate --verify`",
                UntestedVersionWarning,
                stacklevel=3,
            )


def load_setting(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Read a setting file as arguments of `apply`: ``apply(model, **load_setting(path, model))``.

    Raises
    ------
    InputError
        If the file is no setting, or the setting of another model.
    """
    setting = CalibratedSetting.load(path)
    setting.check(model)
    return setting.apply_arguments()


def fingerprint(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that depend on name, shape and first values of every weight."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        first = weight.detach().flatten()[:N_VALUES].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(weight.shape)}".encode() + first.numpy().tobytes())
    return digest.hexdigest()[:16]


def _lacking(values: Any) -> list[str]:
    """Return what the values of a file lack to be those of a setting, also where a type is another."""
    values = values if isinstance(values, dict) else {}
    lacking = [name for name in PARTS if not isinstance(values.get(name), dict)]
    if lacking:
        return lacking
    arguments, model = values["arguments"], values["model"]
    strings = [(arguments, "method"), *((model, name) for name in ("name", "architecture", "weights"))]
    lacking = [name for part, name in strings if not isinstance(part.get(name), str)]
    if sum(name in arguments for name in BUDGETS) != 1:
        lacking.append(f"exactly one of {', '.join(BUDGETS)}")
    objects = [name for name in ("options", "cover") if not isinstance(arguments.get(name, {}), dict)]
    return [*lacking, *(f"an object as {name!r}" for name in objects)]


def _dtype(model: nn.Module) -> str:
    return str(next(iter(model.state_dict().values())).dtype).removeprefix("torch.")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
