# SPDX-License-Identifier: Apache-2.0
"""The requests that servers are given, the contenders that answer them, and what is refused in advance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.named_methods import name_and_options
from tokenprune_evaluation.tower_cut import TowerCut

T = TypeVar("T")
NONE, IDLE = "no plugin", "plugin, idle"
N_ROUNDS = 6  # the fewest that have a 95 % interval
METHOD, KEEP, TOWER_LAYER = "divprune", 64, 2  # measured by default
CLIENTS = (1, 8)


@dataclass(frozen=True)
class Load:
    """Requests to each engine, and how the engines prune.

    In each of `rounds`, every number of clients in `concurrency` sends as many of `requests`; each client
    waits for its answer before its next request. Methods are measured at all `keeps`, and those of
    `tower_cuts` also inside the vision tower.
    """

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    concurrency: tuple[int, ...]
    requests: tuple[int, ...]
    new_tokens: int = 1
    text_tokens: int = 32
    seed: int = 0
    tower_cuts: tuple[TowerCut, ...] = ()
    rounds: int = 1

    def contenders(self) -> dict[str, dict[str, Any]]:
        """Return the pruning configuration of each contender that prunes, by its name."""
        after = {
            after_tower(method, keep): {**_named(method), "keep": keep}
            for method in self.methods
            for keep in self.keeps
        }
        inside = {
            f"tower {after_tower(cut.method, cut.keep)} @{cut.layer}": {
                **_named(cut.method),
                "keep": cut.keep,
                "stage": "vision",
                "layer": cut.layer,
            }
            for cut in self.tower_cuts
        }
        return after | inside

    def comparisons(self) -> dict[str, str]:
        """Return the contender with the same method and budget after the tower, for each one inside it."""
        names = [after_tower(cut.method, cut.keep) for cut in self.tower_cuts]
        return {f"tower {name} @{cut.layer}": name for name, cut in zip(names, self.tower_cuts, strict=True)}


def after_tower(method: str, keep: int) -> str:
    """Return the name of the contender that cuts between the vision tower and the language model."""
    return f"{method}, {keep}"


def make_load(
    methods: tuple[str, ...] = (),
    keeps: tuple[int, ...] = (),
    tower_cuts: tuple[tuple[int, int], ...] = (),
    clients: tuple[int, ...] = (),
    new_tokens: int = 1,
    rounds: int = N_ROUNDS,
) -> Load:
    """Return the load for what a user sets; tower cuts are pairs of a block and the tokens left from it on.

    Without methods and tower cuts, `divprune` is also measured inside the tower, since it can cut there.
    """
    keeps, clients = _once(keeps) or (KEEP,), _once(clients) or CLIENTS
    if not methods and not tower_cuts:
        tower_cuts = tuple((TOWER_LAYER, keep) for keep in keeps)
    methods = _once(methods) or (METHOD,)
    # with longer answers, some clients' tokens are decoded while other prompts are processed; a round of a
    # single request each would end before much of that happens
    each = 1 if new_tokens == 1 else 4
    return Load(
        methods=methods,
        keeps=keeps,
        concurrency=clients,
        requests=tuple(each * count for count in clients),
        new_tokens=new_tokens,
        tower_cuts=tuple(TowerCut(method, *cut) for method in methods for cut in _once(tower_cuts)),
        rounds=rounds,
    )


def _named(text: str) -> dict[str, Any]:
    """Return the method and its options as the plugin's configuration has them."""
    name, options = name_and_options(text)
    return {"method": name, "options": options} if options else {"method": name}


def _once(values: tuple[T, ...]) -> tuple[T, ...]:
    """Return the values without repetitions."""
    return tuple(dict.fromkeys(values))


def check_contenders(load: Load) -> None:
    """Validate methods, budgets and blocks of the tower before any engine is started.

    Raises
    ------
    TokenPruneError, BadInputError
        If a method is unknown or not supported in vLLM at its stage, a budget leaves nothing to prune, the
        tower has no such block, or there is nothing to compare a cut inside it with.
    """
    from tokenprune_vllm.clip_tower import WITH_CLASS_TOKEN
    from tokenprune_vllm.settings import Settings
    from tokenprune_vllm.tower_run import WITH_CLASS_ROW

    from tokenprune.cut import check_cut
    from tokenprune.towers.checks import check_blocks, check_reducer
    from tokenprune_serving.checkpoint import MAX_LENGTH, N_TOKENS, N_TOWER_BLOCKS

    for keep in load.keeps:
        if keep >= N_TOKENS:
            raise BadInputError(f"--keep {keep} prunes nothing: images have {N_TOKENS} visual tokens")
    longest = MAX_LENGTH - N_TOKENS - load.text_tokens - 1
    if load.new_tokens > longest:
        raise BadInputError(f"--new-tokens {load.new_tokens} is too long: at most {longest} fit the engines")
    for cut in load.tower_cuts:
        given = f"--tower-cut {cut.layer}:{cut.keep}"
        if cut.layer >= N_TOWER_BLOCKS:
            raise BadInputError(
                f"{given} does not name a block of the tower: they are 0 ... {N_TOWER_BLOCKS - 1}"
            )
        if cut.keep not in load.keeps:
            raise BadInputError(
                f"{given} is compared with a cut to {cut.keep} tokens after the tower, which is not "
                f"measured; add --keep {cut.keep}"
            )
    provided = {
        "projector": frozenset({"pre_features", "projector"}) | WITH_CLASS_TOKEN,
        "vision": WITH_CLASS_ROW,
    }
    for pruning in load.contenders().values():
        settings = Settings.parse(pruning)
        check_cut(settings.cut(settings.budget), "LLaVA inside vLLM", provided, ("contiguous",))
        if settings.cuts_tower:
            check_blocks(settings.method, (pruning["layer"],), WITH_CLASS_ROW)
            check_reducer(settings.method)
