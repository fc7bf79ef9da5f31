# SPDX-License-Identifier: Apache-2.0
"""The name of a model's cache is read off its own `forward`."""

import pytest
import tiny_models
from cache_names import CACHE
from tokenprune_cli.cache_name import cache_name


class Older:
    def forward(self, input_ids=None, past_key_values=None): ...


class Newer:
    def forward(self, input_ids=None, cache=None): ...


class Stateless:
    def forward(self, input_ids=None, **kwargs): ...


def test_either_name_is_found():
    assert (cache_name(Older()), cache_name(Newer())) == ("past_key_values", "cache")


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(TypeError, match=r"Stateless\.forward takes no cache.*cache, past_key_values"):
        cache_name(Stateless())


def test_the_name_is_that_of_the_installed_transformers():
    assert cache_name(tiny_models.llava()) == CACHE
