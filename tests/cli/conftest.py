# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image
from untrained import scenes, untrained, untrained_model

__all__ = ["scenes", "untrained", "untrained_model"]


@pytest.fixture(scope="session")
def photo(tmp_path_factory, scenes):
    """A scene as a picture file."""
    path = tmp_path_factory.mktemp("photo") / "scene.png"
    Image.fromarray(scenes[0][0].image).save(path)
    return path
