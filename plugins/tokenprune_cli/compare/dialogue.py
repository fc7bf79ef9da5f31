# SPDX-License-Identifier: Apache-2.0
"""Talking on: later turns on the very cache that the first question left, one conversation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from tokenprune_cli.cache_name import cache_name
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.evaluation.prompts import placed, tokenized
from tokenprune_cli.evaluation.settings import Setting


@torch.no_grad()
def talk(
    model: Any,
    processor: Any,
    setting: Setting,
    image: Image.Image,
    questions: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Ask questions about one picture one after the other; the model's own answers stay in the conversation.

    Only the first call brings the picture. Its answer is taken back from the cache and written again as the
    chat template writes it, then the next question follows. The model is already under the setting.
    """
    inputs = placed(model, setting.prepared(model, tokenized(processor, [image], [questions[0]])))
    name = cache_name(model)
    ids, turns, said = inputs["input_ids"], [(questions[0], "")], list[str]()
    for next_question in [*questions[1:], None]:
        out = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True
        )
        cache, length = getattr(out, name), ids.shape[1]
        said.append(processor.batch_decode(out.sequences[:, length:], skip_special_tokens=True)[0].strip())
        if next_question is None:
            break
        too_long = int(cache.get_seq_length()) - length
        if too_long:  # 0 where the answer was empty; cropping by 0 would mean to nothing
            cache.crop(-too_long)
        before = rendered(processor, turns)
        turns = [*turns[:-1], (turns[-1][0], said[-1]), (next_question, "")]
        text = continuation(before, rendered(processor, turns))
        more = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        ids = torch.cat([ids, more.to(ids.device)], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), name: cache}
    return said


def rendered(processor: Any, turns: Sequence[tuple[str, str]]) -> str:
    """Write a conversation about one picture in the model's chat template; the last turn lacks its answer."""
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        picture = [{"type": "image"}] if number == 0 else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        if number < len(turns) - 1:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def continuation(before: str, after: str) -> str:
    """What a conversation has more than it had a turn ago."""
    if not after.startswith(before):
        raise BadInputError(
            "this model's chat template writes earlier turns anew with every turn, so that a conversation "
            "cannot go on from the cache; leave --conversation out"
        )
    return after[len(before) :]
