# SPDX-License-Identifier: Apache-2.0
"""Names in the package of a new plugin, and why a name may not be used."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from tokenprune_cli.console.failures import BadInputError

PREFIX = "tokenprune-"
WORDS = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
KINDS_OF_NAMES = ("scorer", "selector", "reducer", "method", "adapter")


class Kind(str, Enum):
    """What the new plugin provides."""

    scorer = "scorer"
    selector = "selector"
    method = "method"
    adapter = "adapter"


@dataclass(frozen=True)
class Names:
    """Names of a new plugin, its package, its module and its class.

    `name` is that of the strategy or method, of the entry point and of the directory: words of lower-case
    letters and digits with hyphens between them, beginning with a letter.
    """

    name: str
    kind: Kind

    @property
    def distribution(self) -> str:
        """Name of the package for pip, such as ``tokenprune-far-corner``."""
        return PREFIX + self.name

    @property
    def module(self) -> str:
        """Name of the module, such as ``tokenprune_far_corner``."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of the class, such as ``FarCornerScorer``."""
        return "".join(map(str.capitalize, [*self.name.split("-"), self.kind.value]))

    @property
    def model_name(self) -> str:
        """Name of the model class of an adapter, such as ``FarCornerForConditionalGeneration``."""
        return self.class_name.removesuffix("Adapter") + "ForConditionalGeneration"

    def check(self, folder: Path) -> None:
        """Raise an error for a name that cannot be used or is taken, or if `folder` exists.

        Raises
        ------
        BadInputError
            Naming what is wrong.
        """
        if self.name.replace("_", "-").startswith(PREFIX):
            raise BadInputError(f"give the name without {PREFIX!r}, which is added, not {self.name!r}")
        if not WORDS.fullmatch(self.name):
            raise BadInputError(
                "a name consists of lower-case letters, digits and single hyphens between them, and begins "
                f"with a letter, as in 'far-corner', not {self.name!r}"
            )
        self._check_registry()
        if _is_installed(self.distribution) or find_spec(self.module) is not None:
            raise BadInputError(
                f"the name {self.name!r} is taken: the package {self.distribution!r} or its module "
                f"{self.module!r} is installed already"
            )
        if os.path.lexists(folder):
            raise BadInputError(f"'{folder}' exists already; choose another name or directory")

    def _check_registry(self) -> None:
        from torch.nn import Module

        import tokenprune

        registry = tokenprune.default_registry()
        for kind in KINDS_OF_NAMES:
            if self.name in registry.names(kind):
                article = "an" if kind == "adapter" else "a"
                raise BadInputError(
                    f"the name {self.name!r} is taken: there is {article} {kind} of this name, see "
                    "`tokenprune list`"
                )
        if self.kind is Kind.adapter:
            stand_in = type(self.model_name, (Module,), {})()
            with contextlib.suppress(tokenprune.UnsupportedModelError):  # no adapter supports it
                name = registry.adapter_for(stand_in).name
                raise BadInputError(
                    f"the adapter {name!r} supports {self.model_name} already; choose another name"
                )
        for plugin in registry.plugins:
            if plugin.name.replace("_", "-") == self.name:
                raise BadInputError(f"the name {self.name!r} is taken by {plugin.origin}")


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
