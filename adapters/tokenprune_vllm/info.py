# SPDX-License-Identifier: Apache-2.0
"""What the front end knows of a model: the signals it can give, how many rows a picture has and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from tokenprune import Budget, BudgetError, Cut, Layout
from tokenprune.adapter import check_cut

from .errors import EngineRefusedError, refusing
from .settings import KEY, Settings, without_ours


class PruningInfo:
    """Mixed in before a model's processing info. Made when an engine starts: what is wrong is said here."""

    family: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    positions: ClassVar[tuple[str, ...]] = ("contiguous",)

    def __init__(self, context: Any) -> None:
        super().__init__(context)  # type: ignore[call-arg]
        self.ctx = context
        self._largest: dict[str, int] = {}
        with refusing():
            settings = Settings.read(context.model_config.hf_config)
            assert settings is not None
            self.pruning: Settings = settings
            self.check(context.model_config)

    def check(self, model_config: Any) -> None:
        """Refuse what this model cannot do."""
        mm_config, method = model_config.multimodal_config, self.pruning.method
        if KEY in (mm_config.mm_processor_kwargs or {}):
            raise EngineRefusedError(
                f'tokenprune: give "{KEY}" to an engine in --hf-overrides; in --mm-processor-kwargs it is '
                "something that single requests may say"
            )
        provides = self.signals(model_config.hf_config)
        cut = Cut(method, self.pruning.budget, self.pruning.min_tokens)
        check_cut(cut, f"{self.family} inside vLLM", {"projector": provides}, self.positions)
        if method.needs and mm_config.mm_encoder_tp_mode == "data":
            raise EngineRefusedError(
                f"tokenprune: method {method.name!r} looks into the vision tower, which --mm-encoder-tp-mode "
                "data spreads over ranks; leave that out, or take a method that needs no signals"
            )

    @classmethod
    def signals(cls, hf_config: Any) -> frozenset[str]:
        """Signals that the tower of such a model can give."""
        raise NotImplementedError

    def layout(self, modality: str, items: Any, number: int, n: int) -> Layout:
        """Layout of one picture with `n` tokens, as far as counting needs it."""
        return Layout((1, 1, n))

    def largest(self) -> Layout:
        """Layout of the picture with most tokens, for the same end."""
        return Layout((1, 1, self.get_max_image_tokens()))  # type: ignore[attr-defined]

    @cached_property
    def most_tokens(self) -> Layout:
        """The same, found out once."""
        return self.largest()

    def check_size(self, modality: str, n: int) -> None:
        """Refuse a picture of more tokens than vLLM would ever send through the tower without pruning.

        Raises
        ------
        BudgetError
            A ValueError, as vLLM's own about prompts that are too long.
        """
        if modality not in self._largest:
            longest = self.ctx.model_config.max_model_len
            most = self.get_mm_max_tokens_per_item(longest, {modality: 1})
            self._largest[modality] = max(longest, most[modality])
        if n > self._largest[modality]:
            raise BudgetError(
                f"{modality} of {n} tokens before pruning; this engine takes {self._largest[modality]}, as "
                "without pruning (--max-model-len, or the largest it was profiled with); send a smaller one"
            )

    def n_whole(self, modality: str, item: Any) -> int:
        """Tokens of a picture without pruning, from what was made of it for the worker."""
        return len(self.most_tokens)

    def asked(self, mm_kwargs: Mapping[str, Any]) -> Budget:
        """Budget of a request's pictures; what is wrong with it is a ValueError."""
        return self.pruning.asked(mm_kwargs)

    def get_hf_processor(self, **kwargs: Any) -> Any:
        """Of vLLM; without what is ours."""
        return super().get_hf_processor(**without_ours(kwargs))  # type: ignore[misc]

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> dict[str, int]:
        """Tokens of the largest picture without pruning: what the tower has to bear.

        It sizes the memory profile and the encoder cache, where some pictures are whole all the same.
        """
        most = super().get_mm_max_tokens_per_item(seq_len, mm_counts) or {}  # type: ignore[misc]
        return {**most, "image": len(self.most_tokens)}
