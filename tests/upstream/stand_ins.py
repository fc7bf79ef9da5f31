# SPDX-License-Identifier: Apache-2.0
"""Empty modules for what the suite imports of transformers' own tests and its source distribution lacks."""

import sys
from types import ModuleType

LACKING = {
    "tests.exporters.test_export": "ExportTesterMixin",
    "tests.generation.test_utils": "GenerationTesterMixin",  # our checks are mixed in by test_modeling.py
}


def put_in() -> None:
    """Make the modules, and the packages that hold them."""
    import tests  # of the distribution: a folder without __init__.py

    for name, mixin in LACKING.items():
        package, _, module = name.rpartition(".")
        folder, made = ModuleType(package), ModuleType(name)
        folder.__path__ = []
        setattr(made, mixin, type(mixin, (), {}))
        sys.modules |= {package: folder, name: made}
        setattr(folder, module, made)
        setattr(tests, package.rpartition(".")[2], folder)
