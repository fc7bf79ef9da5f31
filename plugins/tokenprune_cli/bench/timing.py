# SPDX-License-Identifier: Apache-2.0
"""Time a run of a contender, part by part."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tokenprune_cli.bench.clock import Clock, PeakMemory
from tokenprune_cli.bench.contenders import Contender
from tokenprune_cli.bench.oracle import Profile, profile_of
from tokenprune_cli.cache_name import cache_name


@dataclass(frozen=True)
class Prefill:
    """What a prefill took: seconds by part, the visual rows by layer, and memory.

    The parts are `prefill`, from pixels to the first token's logits, which is the sum of `tower`, until the
    language model is called, and `language`, which begins with `choosing`; `decode_token`, a step of
    decoding; and `apply` with its rehearsal, for methods. For cuts inside the tower, `choosing` also has the
    time of that choice, which is part of `tower`. `tower` are the tokens left from blocks of the tower on.
    """

    seconds: dict[str, float]
    profile: Profile
    kv_bytes: int
    peak_memory_bytes: int | None
    tower: Profile = ()


@torch.no_grad()
def time_prefill(
    model: Any,
    contender: Contender,
    clock: Clock,
    decode_steps: int,
    counter: AbstractContextManager[Any] | None = None,
) -> Prefill:
    """Time a prefill and some steps of decoding; `counter` is entered around the prefill alone."""
    language = model.model.language_model
    name, memory = cache_name(model), PeakMemory(model.device)
    with language.register_forward_pre_hook(lambda *_: clock.mark("entered")):
        clock.restart()
        clock.mark("apply")
        with contender.ready() as handle:
            clock.mark("applied")
            apply_seconds = clock.between("apply", "applied")
            # the hook of a pruned model was registered between these two, and runs between them
            with language.register_forward_pre_hook(lambda *_: clock.mark("chosen")):
                _prime(model, contender)
                memory.restart()
                clock.restart()
                clock.mark("start")
                with counter or nullcontext():
                    out = model(**contender.arguments(), use_cache=True, logits_to_keep=1)
                clock.mark("prefilled")
                cache, report = getattr(out, name), getattr(handle, "last", None)
                kv_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
                token = out.logits[:, -1:].argmax(-1)
                for _ in range(decode_steps):
                    model(input_ids=token, **{name: cache}, use_cache=True)
                clock.mark("decoded")
                peak = memory.bytes()
    seconds = {
        "prefill": clock.between("start", "prefilled"),
        "tower": clock.between("start", "entered"),
        "language": clock.between("entered", "prefilled"),
        "choosing": clock.between("entered", "chosen"),
        "decode_token": clock.between("prefilled", "decoded") / max(1, decode_steps),
    }
    tower = contender.tower
    if report is None:
        profile = contender.profile or ()
    else:
        seconds["apply"] = apply_seconds
        image = report.images[0]
        profile = profile_of(image.cuts, image.n_before)
        tower = tuple(sorted(image.tower_cuts.items()))
        if tower:  # the report's time is that of all cuts
            seconds["choosing"] = report.seconds_choosing
        elif max(image.cuts, default=0) > 0:  # the method selects inside the language model
            seconds["choosing"] += report.seconds_choosing
    return Prefill(seconds, profile, kv_bytes, peak, tower)


@torch.no_grad()
def time_answer(model: Any, contender: Contender, clock: Clock, n_tokens: int) -> float:
    """Return the seconds of `generate`, from pixels to the last of `n_tokens` tokens."""
    with contender.ready():
        _prime(model, contender)
        clock.restart()
        clock.mark("start")
        arguments = contender.arguments()
        model.generate(
            **arguments, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False, pad_token_id=0
        )
        clock.mark("end")
        return clock.between("start", "end")


def _prime(model: Any, contender: Contender) -> None:
    if contender.first is not None:
        model(**contender.first, use_cache=False, logits_to_keep=1)
