# SPDX-License-Identifier: Apache-2.0
"""Processing info of a pruned model: the signals that it provides, and token counts of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from tokenprune import Budget, Cut, IncompatibleError, InputError, Layout
from tokenprune.cut import check_cut, position_rule
from tokenprune.towers.checks import check_blocks, check_reducer

from . import stock
from .errors import EngineRefusedError, ItemSizeError, refusing
from .settings import KEY, Settings, entry_of, without_pruning_entry


class PruningInfo:
    """Mixin for a model's processing info. Raises an error if the engine's configuration is invalid.

    Methods with a first parameter `original` override a method of vLLM's class (`stock.INFO` lists which);
    `original` calls the overridden method. An item is an image or a video.
    """

    vllm_max_image_tokens: Callable[[], int]  # vLLM's methods (`stock.INFO_USES`)
    vllm_max_tokens_per_item: Callable[[int, Mapping[str, int]], Mapping[str, int] | None]

    pruning: Settings | None = None
    family: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    takes_fields: ClassVar[bool] = False  # whether rows of items may come from another engine
    only_pixels: ClassVar[tuple[str, ...]] = ()  # modalities whose precomputed rows are refused
    positions: ClassVar[tuple[str, ...]] = ("contiguous",)

    def __init__(self, context: Any) -> None:
        super().__init__(context)  # type: ignore[call-arg]
        self.options = stock.model_options(context).check()
        self.config = self.options.configuration
        self._max_tokens: dict[str, int] = {}
        with refusing():
            self.settings = self.of_tower(Settings.parse(entry_of(self.config)), self.config)
            self.check()
        self.pruning = self.settings

    def check(self) -> None:
        """Refuse settings that this model does not support."""
        method = self.settings.method
        if KEY in (self.options.processor_arguments or {}):
            raise EngineRefusedError(
                f'tokenprune: pass "{KEY}" to the engine in --hf-overrides; in --mm-processor-kwargs it is '
                "accepted from single requests only"
            )
        provides = {"projector": self.signals(self.config)}
        if in_tower := self.tower_signals(self.config):
            provides["vision"] = in_tower
        rule = position_rule(method, method.positions, self.positions)  # `check_cut` validates it
        cut = Cut(method, self.settings.budget, self.settings.min_tokens, rule)
        check_cut(cut, f"{self.family} inside vLLM", provides, self.positions)
        if self.settings.cuts_tower:
            self.check_tower_cut(in_tower)
        if method.needs and self.options.tower_parallelism == "data":
            raise EngineRefusedError(
                f"tokenprune: method {method.name!r} uses signals of the vision tower, whose images "
                "--mm-encoder-tp-mode data divides among ranks; omit that option, or use a method that needs "
                "no signals"
            )

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Return the names of the signals that the tower of a model with this configuration provides."""
        raise NotImplementedError

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return the signals inside the tower; none if tokens cannot be cut there."""
        return frozenset()

    @classmethod
    def tower_blocks(cls, config: Any) -> int:
        """Return the number of blocks before which tokens can be cut."""
        raise NotImplementedError

    @classmethod
    def of_tower(cls, settings: Settings, config: Any) -> Settings:
        """Return settings that know the blocks of the tower, if they cut inside it."""
        if not settings.cuts_tower or not cls.tower_signals(config):
            return settings
        return replace(settings, n_blocks=cls.tower_blocks(config))

    def check_tower_cut(self, provided: frozenset[str]) -> None:
        """Refuse a cut inside the tower that it cannot make."""
        method, n_blocks = self.settings.method, self.settings.n_blocks
        if self.options.tower_parallelism == "data":
            raise EngineRefusedError(
                "tokenprune: a cut inside the vision tower needs all images of a batch, and "
                "--mm-encoder-tp-mode data divides them among ranks; omit that option"
            )
        if method.schedule is None:
            raise IncompatibleError(
                f"method {method.name!r} does not say before which block of the vision tower to cut; give "
                f'"layer" (0 ... {n_blocks - 1})'
            )
        check_blocks(method, self.settings.boundaries, provided)
        check_reducer(method)

    def layout(self, modality: str, items: Any, index: int, n: int) -> Layout:
        """Return the layout of an item with `n` tokens, as far as counting rows requires it."""
        return Layout((1, 1, n))

    def pieces(self, modality: str, items: Any, index: int, n: int) -> list[Layout]:
        """Return the layouts of the parts of an item that have a budget of their own; here the whole item."""
        return [self.layout(modality, items, index, n)]

    def shorten(self, modality: str, replacement: Any, sizes: list[int], kept: list[int]) -> Any:
        """Return the tokens that replace an item in a prompt, with `kept` of `sizes` rows, part by part."""
        return stock.keep_placeholders(replacement, sizes, kept)

    def largest(self) -> Layout:
        """Return the layout of the image with the most tokens, as far as counting rows requires it."""
        return Layout((1, 1, self.vllm_max_image_tokens()))

    @cached_property
    def largest_layout(self) -> Layout:
        """The result of `largest`, cached."""
        return self.largest()

    def most_tokens(self) -> int:
        """Return the number of tokens of the image with the most tokens."""
        return len(self.largest_layout)

    def check_modalities(self, items: Any) -> None:
        """Refuse items that vLLM accepts for this model, but not together with pruning.

        Raises
        ------
        InputError
            A ValueError, which vLLM answers with HTTP 400.
        """
        for modality in items:
            if modality in self.only_pixels and stock.kind_of(items, modality) != "pixels":
                raise InputError(
                    f"{modality}s of {self.family} that come as precomputed rows cannot be combined with "
                    f'pruning; send them to an engine without "{KEY}" in --hf-overrides'
                )

    def check_size(self, modality: str, n: int) -> None:
        """Refuse an item with more tokens than vLLM would send through the tower without pruning.

        Raises
        ------
        ItemSizeError
            A ValueError, like vLLM's own error for prompts that are too long.
        """
        if modality not in self._max_tokens:
            max_prompt_tokens = self.options.max_prompt_tokens
            per_item = self._with_image(self.vllm_max_tokens_per_item(max_prompt_tokens, {modality: 1}))
            self._max_tokens[modality] = max(max_prompt_tokens, per_item.get(modality, 0))
        if n > self._max_tokens[modality]:
            raise ItemSizeError(
                f"this {modality} has {n} tokens before pruning, but this engine accepts at most "
                f"{self._max_tokens[modality]}, as without pruning (--max-model-len, or the size of the "
                f"largest {modality} that it was profiled with); send a smaller {modality}"
            )

    def n_unpruned(self, modality: str, item: Any) -> int:
        """Return the number of tokens of an item without pruning, from its processed inputs."""
        return len(self.largest_layout)

    def request_budget(self, arguments: Mapping[str, Any]) -> Budget:
        """Return the budget of a request. Raises a ValueError if it is invalid."""
        return self.settings.request_budget(arguments)

    def own_budget(self, arguments: Mapping[str, Any]) -> Budget | None:
        """Return the budget that a request sets, or None. Raises a ValueError if it is invalid."""
        budget = self.request_budget(arguments)
        return None if arguments.get(KEY) is None else budget

    def check_fields(self, modality: str, fields: Mapping[str, Any]) -> None:
        """Refuse items whose rows come from another engine if their fields do not give all positions."""
        if not self.takes_fields:
            raise IncompatibleError(
                f"items of {self.family} whose rows come from another engine are not supported with pruning; "
                "send their pixels"
            )

    def transformers_processor(self, original: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Load the processor without our arguments."""
        return original(without_pruning_entry(arguments))

    def max_tokens_per_item(self, original: Callable[..., Any], *arguments: Any) -> dict[str, int]:
        """Return the number of tokens of the largest item of each modality, without pruning.

        vLLM sizes its memory profile and its encoder cache by it; some images may not be pruned.
        """
        return self._with_image(original(*arguments))

    def _with_image(self, max_tokens: Mapping[str, int] | None) -> dict[str, int]:
        return {**(max_tokens or {}), "image": self.most_tokens()}
