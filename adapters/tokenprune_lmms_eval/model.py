# SPDX-License-Identifier: Apache-2.0
"""The model that lmms-eval runs: transformers' own classes and processors, pruned by `tokenprune.apply`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from loguru import logger
from tokenprune_adapters.loading import load_model
from tokenprune_embedded import embedded_model_path
from tokenprune_evaluation.clip_checkpoint import role_with_clip, with_clip
from tokenprune_evaluation.model_name import EMBEDDED
from tokenprune_evaluation.pruning_arguments import SETTING, read_pruning
from tqdm import tqdm
from transformers import StoppingCriteriaList

import tokenprune
from tokenprune_lmms_eval.generation import Generation, StopAtStrings, batches, truncate
from tokenprune_lmms_eval.kept_rows import KeptRows
from tokenprune_lmms_eval.loading import split_arguments
from tokenprune_lmms_eval.prompts import Conversation, Prompts, has_images


class TokenPrune(lmms):  # type: ignore[misc]
    """`--model tokenprune --model_args pretrained=...,method=...,keep=...`.

    Parameters
    ----------
    device, batch_size
        lmms-eval's `--device` (cpu, cuda, cuda:N) and `--batch_size`.
    max_batch_size
        Ignored, because the batch size is not tuned automatically.
    arguments
        Those of `Loading`, of `tokenprune.apply` and of the strategies named; see docs/lmms-eval.md.

    Raises
    ------
    TokenPruneError
        If an argument is invalid; before the model is loaded if possible.
    """

    is_simple = False

    def __init__(
        self,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        loading, rest = split_arguments(arguments)
        pruning = read_pruning(rest, loading.names())
        if loading.clip is not None:
            role_with_clip(pruning)
        self._batch_size = _as_batch_size(batch_size)
        system = loading.system_text()
        loading.check_device_map(device)
        embedded = loading.pretrained == EMBEDDED
        self._model, self.processor = load_model(
            embedded_model_path() if embedded else loading.pretrained,
            loading.read_device(device),
            loading.precision,
            loading.trust_remote_code,
            local_files_only=embedded,
            label="the embedded model" if embedded else None,
            attention=loading.attn_implementation,
            revision=loading.revision,
            device_map=loading.device_map,
        )
        self.tokenizer = self.processor.tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        pixels = (loading.min_pixels, loading.max_pixels)
        self.prompts = Prompts(self.processor, system, loading.pad_to_square, pixels)
        self.prompts.check()
        self.max_new_tokens = loading.max_new_tokens
        if pruning is not None and SETTING in pruning:
            pruning[SETTING].check(self._model)
            pruning = pruning[SETTING].apply_arguments()
        if pruning is not None and loading.clip is not None:
            pruning = with_clip(pruning, loading.clip, self._model, self.tokenizer)
        self.handle = None if pruning is None else tokenprune.apply(self._model, **pruning)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> TokenPrune:
        """Create the model from the command line's arguments.

        lmms-eval prints a traceback for any exception and exits with code 0, so bad input is reported here as
        one sentence on stderr, with exit code 2.
        """
        from lmms_eval.utils import simple_parse_args_string

        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        try:
            try:
                arguments = simple_parse_args_string(arg_string)
            except ValueError:
                raise tokenprune.InputError(
                    f"--model_args must have the form name=value,name=value, got {arg_string!r}"
                ) from None
            repeated = sorted(set(arguments) & set(options))
            if repeated:
                raise tokenprune.InputError(f"pass {repeated[0]} as --{repeated[0]}, not in --model_args")
            return cls(**arguments, **options)
        except tokenprune.TokenPruneError as error:
            print(f"tokenprune: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self._model.device
        return device

    @property
    def batch_size(self) -> int:
        """Number of questions answered at once."""
        return self._batch_size

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer each request; those with the same generation arguments share batches."""
        results: list[Any] = [None] * len(requests)
        rows = KeptRows(self._model.config.get_text_config().num_hidden_layers)
        n_tokens, seconds = 0, 0.0
        todo = batches([request.args[2] for request in requests], self._batch_size, self.max_new_tokens)
        for name in sorted({name for generation, _ in todo for name in generation.unused}):
            logger.warning(f"tokenprune: the task's generation argument {name!r} is ignored")
        with tqdm(total=len(requests), disable=self.rank != 0, desc="tokenprune") as bar:
            for generation, batch in todo:
                conversations = {i: self._conversation(requests[i]) for i in batch}
                for with_images in (True, False):  # processors do not accept both in one batch
                    part = [i for i, messages in conversations.items() if has_images(messages) is with_images]
                    if not part:
                        continue
                    start = time.perf_counter()
                    answers = self._answer([conversations[i] for i in part], generation, rows)
                    seconds += time.perf_counter() - start
                    for i, answer in zip(part, answers, strict=True):
                        results[i] = answer
                        n_tokens += answer.token_counts.output_tokens
                bar.update(len(batch))
        if self.handle is not None:
            names = " + ".join(f"{cut.method.name} {cut.budget}" for cut in self.handle.cuts)
            logger.info(f"tokenprune, process {self.rank} of {self.world_size}: {names} {rows}")
        log_metrics(seconds, n_tokens, n_tokens / seconds if seconds else 0.0, rows.means() or None)
        return results

    def loglikelihood(self, requests: Any) -> Any:
        """Raise an error: tasks that compare likelihoods are not supported."""
        raise NotImplementedError("--model tokenprune supports tasks with generate_until only")

    def generate_until_multi_round(self, requests: Any) -> Any:
        """Raise an error: tasks of several rounds are not supported."""
        raise NotImplementedError("--model tokenprune supports tasks of one round only")

    def _conversation(self, request: Instance) -> Conversation:
        """Return the messages of a request in the format of chat templates."""
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        conversation: Conversation = messages.to_hf_messages()
        return conversation

    @torch.no_grad()
    def _answer(
        self, conversations: Sequence[Conversation], generation: Generation, rows: KeptRows
    ) -> list[GenerationResult]:
        """Answer a batch, and add its kept rows to `rows`."""
        inputs = {
            name: value.to(self.device, self._model.dtype if value.is_floating_point() else None)
            for name, value in self.prompts.inputs(conversations).items()
        }
        length, pad = inputs["input_ids"].shape[1], self.tokenizer.pad_token_id
        stop = [StopAtStrings(self.tokenizer, generation.until, length)] if generation.until else []
        before = None if self.handle is None else self.handle.last
        output = self._model.generate(
            **inputs, **generation.options, pad_token_id=pad, stopping_criteria=StoppingCriteriaList(stop)
        )
        if self.handle is not None and self.handle.last is not None and self.handle.last is not before:
            rows.add(self.handle.last)
        new = output[:, length:]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        counts = zip(inputs["attention_mask"].sum(1).tolist(), (new != pad).sum(1).tolist(), strict=True)
        return [
            GenerationResult(
                text=truncate(text, generation.until),
                token_counts=TokenCounts(input_tokens=n_input, output_tokens=n_output),
            )
            for text, (n_input, n_output) in zip(texts, counts, strict=True)
        ]


def _as_batch_size(batch_size: int | str) -> int:
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise tokenprune.InputError(f"--batch_size must be an integer, 1 or more, got {batch_size!r}")
    return int(batch_size)
