# SPDX-License-Identifier: Apache-2.0
"""Processing info of a pruned model: the signals that it provides, and token counts of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from tokenprune import Budget, BudgetError, Cut, InputError, Layout
from tokenprune.cut import check_cut, position_rule

from . import stock
from .errors import EngineRefusedError, refusing
from .settings import KEY, Settings, without_pruning_entry


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
    only_pixels: ClassVar[tuple[str, ...]] = ()  # modalities whose precomputed rows are refused
    positions: ClassVar[tuple[str, ...]] = ("contiguous",)

    def __init__(self, context: Any) -> None:
        super().__init__(context)  # type: ignore[call-arg]
        self.options = stock.model_options(context).check()
        self.config = self.options.configuration
        self._max_tokens: dict[str, int] = {}
        with refusing():
            self.settings = Settings.parse(getattr(self.config, KEY))
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
        provides = self.signals(self.config)
        rule = position_rule(method, method.positions, self.positions)  # `check_cut` validates it
        cut = Cut(method, self.settings.budget, self.settings.min_tokens, rule)
        check_cut(cut, f"{self.family} inside vLLM", {"projector": provides}, self.positions)
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
            if modality in self.only_pixels and not stock.has_pixels(items, modality):
                raise InputError(
                    f"{modality}s of {self.family} that come as precomputed rows cannot be combined with "
                    f'pruning; send them to an engine without "{KEY}" in --hf-overrides'
                )

    def check_size(self, modality: str, n: int) -> None:
        """Refuse an item with more tokens than vLLM would send through the tower without pruning.

        Raises
        ------
        BudgetError
            A ValueError, like vLLM's own error for prompts that are too long.
        """
        if modality not in self._max_tokens:
            max_prompt_tokens = self.options.max_prompt_tokens
            per_item = self._with_image(self.vllm_max_tokens_per_item(max_prompt_tokens, {modality: 1}))
            self._max_tokens[modality] = max(max_prompt_tokens, per_item.get(modality, 0))
        if n > self._max_tokens[modality]:
            raise BudgetError(
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
