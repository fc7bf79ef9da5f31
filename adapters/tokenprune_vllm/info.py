# SPDX-License-Identifier: Apache-2.0
"""The front end's view of a model: its signals, and how many rows a picture has before and after pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from tokenprune import Budget, BudgetError, Cut, Layout
from tokenprune.cut import check_cut, position_rule

from . import stock
from .errors import EngineRefusedError, refusing
from .settings import KEY, Settings, without_ours


class PruningInfo:
    """Mixed in before a model's processing info. Made when an engine starts: what is wrong is said here.

    Methods whose first argument is `vllm` run around vLLM's own, which that is (`stock.INFO`).
    """

    most_image_tokens: Callable[[], int]  # vLLM's (`stock.INFO_USES`)
    whole_of_each: Callable[[int, Mapping[str, int]], Mapping[str, int] | None]

    pruning: Settings | None = None
    family: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    positions: ClassVar[tuple[str, ...]] = ("contiguous",)

    def __init__(self, context: Any) -> None:
        super().__init__(context)  # type: ignore[call-arg]
        self.options = stock.model_options(context).check()
        self.config = self.options.configuration
        self._largest: dict[str, int] = {}
        with refusing():
            self.settings = Settings.of(getattr(self.config, KEY))
            self.check()
        self.pruning = self.settings

    def check(self) -> None:
        """Refuse settings that this model does not support."""
        method = self.settings.method
        if KEY in (self.options.processor_arguments or {}):
            raise EngineRefusedError(
                f'tokenprune: give "{KEY}" to an engine in --hf-overrides; in --mm-processor-kwargs it is '
                "something that single requests may say"
            )
        provides = self.signals(self.config)
        rule = position_rule(
            method, method.positions, self.positions
        )  # its own is refused if it does not fit
        cut = Cut(method, self.settings.budget, self.settings.min_tokens, rule)
        check_cut(cut, f"{self.family} inside vLLM", {"projector": provides}, self.positions)
        if method.needs and self.options.tower_ranks == "data":
            raise EngineRefusedError(
                f"tokenprune: method {method.name!r} looks into the vision tower, which --mm-encoder-tp-mode "
                "data spreads over ranks; leave that out, or take a method that needs no signals"
            )

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Signals that the tower of such a model provides."""
        raise NotImplementedError

    def layout(self, modality: str, items: Any, number: int, n: int) -> Layout:
        """Layout of one picture with `n` tokens, as far as counting needs it."""
        return Layout((1, 1, n))

    def largest(self) -> Layout:
        """Layout of the picture with most tokens, as far as counting needs it."""
        return Layout((1, 1, self.most_image_tokens()))

    @cached_property
    def most_tokens(self) -> Layout:
        """The same, cached."""
        return self.largest()

    def check_size(self, modality: str, n: int) -> None:
        """Refuse a picture of more tokens than vLLM would ever send through the tower without pruning.

        Raises
        ------
        BudgetError
            A ValueError, as vLLM's own about prompts that are too long.
        """
        if modality not in self._largest:
            longest = self.options.longest_prompt
            most = self._with_image(self.whole_of_each(longest, {modality: 1}))
            self._largest[modality] = max(longest, most[modality])
        if n > self._largest[modality]:
            raise BudgetError(
                f"{modality} of {n} tokens before pruning; this engine takes {self._largest[modality]}, as "
                "without pruning (--max-model-len, or the largest it was profiled with); send a smaller one"
            )

    def n_whole(self, modality: str, item: Any) -> int:
        """Tokens of a picture without pruning, from what was made of it for the worker."""
        return len(self.most_tokens)

    def asked(self, arguments: Mapping[str, Any]) -> Budget:
        """Budget of a request's pictures; raises a ValueError if it is invalid."""
        return self.settings.asked(arguments)

    def transformers_processor(self, vllm: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call vLLM's method without our arguments."""
        return vllm(without_ours(arguments))

    def most_of_each(self, vllm: Callable[..., Any], *given: Any) -> dict[str, int]:
        """Tokens of the largest picture without pruning: what the tower has to bear.

        It sizes the memory profile and the encoder cache, where some pictures are whole all the same.
        """
        return self._with_image(vllm(*given))

    def _with_image(self, most: Mapping[str, int] | None) -> dict[str, int]:
        return {**(most or {}), "image": len(self.most_tokens)}
