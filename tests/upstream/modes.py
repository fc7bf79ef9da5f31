# SPDX-License-Identifier: Apache-2.0
"""How the models of a run are pruned: as they are, keeping everything, or to a third of their visual tokens.

transformers' suite makes its models itself, by constructor and by `from_pretrained`, and looks classes up by
name. So the classes stay, and both ways end with `tokenprune.apply`.
"""

import functools
from dataclasses import dataclass, field

import tokenprune

WHOLE = 10**6  # more than any image has


@dataclass(frozen=True)
class Mode:
    """A run of the suite: a method and whether it keeps all visual tokens or a third; no method: stock."""

    name: str
    method: str | None = None
    whole: bool = False
    options: dict[str, object] = field(default_factory=dict)

    @property
    def identity(self) -> bool:
        """Whether models are pruned to what they have: everything must be as in stock models."""
        return self.method is not None and self.whole

    @property
    def prunes(self) -> bool:
        """Whether tokens are dropped."""
        return self.method is not None and not self.whole

    @property
    def late(self) -> bool:
        """Whether tokens are dropped in the decoder, by what the text's last token looks at."""
        return self.prunes and "layer" in self.options

    def keep(self, n: int) -> int:
        """Visual tokens kept of n."""
        return n // 3 if self.prunes else n

    def apply(self, model, n_image: int) -> None:
        """Prune a model that is not pruned yet."""
        if self.method is not None and not tokenprune.is_pruned(model):
            keep = WHOLE if self.whole else self.keep(n_image)
            tokenprune.apply(model, method=self.method, keep=keep, **self.options)


SECOND = {"layer": 1}  # the models have two layers
MODES = {
    mode.name: mode
    for mode in (
        Mode("stock"),
        Mode("whole-divprune", "divprune", whole=True),
        Mode("whole-zoo-exact", "zoo-exact", whole=True),
        Mode("whole-fastv", "fastv", whole=True, options=SECOND),
        Mode("third-divprune", "divprune"),
        Mode("third-zoo-exact", "zoo-exact"),
        Mode("third-fastv", "fastv", options=SECOND),
        # not run unless asked for
        Mode("third-zoo-prune", "zoo-prune"),
        Mode("third-pyramiddrop", "pyramiddrop", options=SECOND),
        Mode("third-dart", "dart", options=SECOND),
    )
}
USUAL = tuple(MODES)[:7]


def prune_every_instance(mode: Mode, model_class: type, n_image: int) -> None:
    """Let every instance of a class come into being pruned."""
    if mode.method is None or "pruned_by" in vars(model_class):
        return
    model_class.pruned_by = mode.name
    construct, load = model_class.__init__, model_class.from_pretrained.__func__
    loading = []

    @functools.wraps(construct)
    def constructed(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        if not loading:  # else the weights are still to come
            mode.apply(self, n_image)

    @functools.wraps(load)
    def loaded(cls, *args, **kwargs):
        loading.append(cls)
        try:
            made = load(cls, *args, **kwargs)
        finally:
            loading.pop()
        mode.apply(made[0] if isinstance(made, tuple) else made, n_image)
        return made

    model_class.__init__ = constructed
    model_class.from_pretrained = classmethod(loaded)
