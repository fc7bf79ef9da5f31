# SPDX-License-Identifier: Apache-2.0
"""Hold a conversation about a picture: later questions follow on the cache that the first one left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenprune_evaluation.prompts import placed, tokenized
from tokenprune_evaluation.settings import Setting

from tokenprune_cli.cache_name import cache_name
from tokenprune_cli.compare.answers import Run
from tokenprune_cli.console.failures import BadInputError


@torch.no_grad()
def talk(run: Run, setting: Setting, numbers: Sequence[int]) -> list[str]:
    """Ask questions about one picture, by their numbers; the model's answers stay in the conversation.

    Only the first call takes the picture. Its answer is removed from the cache and written again by the chat
    template, followed by the next question. Returns the answers.
    """
    model, processor = run.model, run.processor
    items = [run.questions.items[i] for i in numbers]
    texts = [item.question.text for item in items]
    picture = run.questions.open_image(items[0].image)
    name = cache_name(model)
    turns, answers = [(texts[0], "")], list[str]()
    with setting.applied(model, run.options.seed):
        inputs = placed(model, setting.prepared(model, tokenized(processor, [picture], texts[:1])))
        ids = inputs["input_ids"]
        for next_question in [*texts[1:], None]:
            out = model.generate(
                **inputs,
                max_new_tokens=run.options.max_new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
            )
            cache, length = getattr(out, name), ids.shape[1]
            answer = processor.batch_decode(out.sequences[:, length:], skip_special_tokens=True)[0].strip()
            answers.append(answer)
            if next_question is None:
                break
            surplus = int(cache.get_seq_length()) - length
            if surplus:  # 0 after an empty answer; crop(0) would remove everything
                cache.crop(-surplus)
            before = rendered(processor, turns)
            turns = [*turns[:-1], (turns[-1][0], answer), (next_question, "")]
            text = continuation(before, rendered(processor, turns))
            added = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            ids = torch.cat([ids, added.to(ids.device)], 1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), name: cache}
    return answers


def rendered(processor: Any, turns: Sequence[tuple[str, str]]) -> str:
    """Apply the chat template to a conversation about one picture whose last question has no answer yet."""
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        picture = [{"type": "image"}] if number == 0 else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        if number < len(turns) - 1:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def continuation(before: str, after: str) -> str:
    """Return what the last turn adds to the text of a conversation."""
    if not after.startswith(before):
        raise BadInputError(
            "this model's chat template changes earlier turns with every turn, so that a conversation cannot "
            "continue on the cache; omit --conversation"
        )
    return after[len(before) :]
