# SPDX-License-Identifier: Apache-2.0
"""The base adapter of vision libraries: cuts before the blocks of a tower."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune import (
    Cut,
    IncompatibleError,
    Method,
    ModelAdapter,
    PruningReport,
    UnsupportedModelError,
)
from tokenprune.at_hand import check_at_hand
from tokenprune.towers.checks import check_blocks
from tokenprune.trial import Trial

from .signals import FROM_HEAD, given_by
from .tower import Tower, refuse_compiled


class VisionTowerAdapter(ModelAdapter):
    """Adapter for a model with a vision transformer; the rest of the model is left unchanged."""

    default_stage: ClassVar[str] = "vision"
    can_trace: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        refuse_compiled(model)
        self.tower = self.find_tower(model)

    @abstractmethod
    def find_tower(self, model: nn.Module) -> Tower:
        """Describe the model's vision transformer as a tower.

        Raises
        ------
        UnsupportedModelError
            If the model has no tower that can be pruned, with the reason.
        """

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals of the tower at the stage `vision`."""
        return {"vision": given_by(self.tower)}

    @property
    def positions(self) -> tuple[str, ...]:
        """Patches keep their positions: learned ones are in the rows, rotary ones are gathered with them."""
        return ("original",)

    def check(self, cut: Cut) -> None:
        """Refuse a cut that this model cannot make; see `ModelAdapter.check`."""
        method, n_blocks = cut.method, len(self.tower.blocks)
        if method.stage == "vision" or method.schedule is None:
            if method.schedule is None:
                raise IncompatibleError(
                    f"method {method.name!r} does not say where to cut this {type(self.model).__name__}; "
                    f"give layer= (the cut is made before that block, 0 ... {n_blocks - 1}) or "
                    "schedule={layer: rows, ...}"
                )
            boundaries = method.schedule.boundaries(n_blocks)
            check_blocks(method, boundaries, given_by(self.tower))
            if method.reducer is not None and method.parts[-1].needs & FROM_HEAD:
                raise IncompatibleError(
                    f"the reducer {method.parts[-1].name!r} makes rows with the projector, which leads "
                    "to the tower's output here, not to rows of the next block; use no reducer"
                )
        super().check(cut)
        assert method.schedule is not None
        if "projector" in method.needs and self.tower.head is not None:
            check_at_hand(self.tower.head, f"method {method.name!r}", in_call=False)
        n = self.tower.usual[0] * self.tower.usual[1]
        method.schedule.cuts(cut.budget.rows(n), n, n_blocks, method.budget)

    def example_inputs(self, seed: int = 0) -> Tensor:
        """Two random pictures of the tower's default size."""
        from .trial import example_pictures

        weight = next((w for w in self.tower.entry.parameters() if w.ndim == 4), None)
        if weight is None:
            raise UnsupportedModelError(
                f"the patches of this {type(self.model).__name__} are not made by a convolution, so the "
                "size of its pictures is not known; give them: check_model(model, pictures)"
            )
        return example_pictures(self.tower, weight, seed)

    def placing(self, method: Method) -> dict[str, Any]:
        """Cut in the middle of the tower if the method has no schedule."""
        return {} if method.schedule is not None else {"layer": max(1, len(self.tower.blocks) // 2)}

    def trial(self, inputs: Any) -> Trial:
        """Checks against reference runs of the tower on the kept rows."""
        from .trial import TowerTrial

        return TowerTrial(self.model, self.tower, inputs)

    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Install the hooks, and return a function that removes them."""
        from .cuts import VisionCuts

        return VisionCuts(self.tower, cuts[0], record, self.record_trace).remove
