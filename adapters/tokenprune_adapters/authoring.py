# SPDX-License-Identifier: Apache-2.0
"""The extension API for adapters: what another package may import besides the public modules of `tokenprune`.

**Vision-language models of transformers.** Derive from `FamilyAdapter`, with a table of `Family` entries by
the name of the model's class (`FAMILIES` is the table of the adapter `generic`), or from
`TransformersAdapter`, whose methods say where the parts of a model are. `Encoded` holds what was recorded
while images were encoded; an `ImageSignal` is a function of it and an image's index that returns the signal
of that image. `StructuralAdapter`, the base of `FamilyAdapter`, finds the parts of a model by its structure.
`LanguageCall` and `RowPlan` are the arguments of `TransformersAdapter.prune_arguments`, and `take` gathers
rows by a plan; `prune_deepstack` and `prune_layer_inputs` prune the additional arguments that several
families have, and `refuse_new_rows` refuses methods whose new rows would have no such arguments.

`argument_name`, `config_value` and `output_field` look up names of transformers by names of ours, in every
tested version. `MODALITY_KINDS` and `BLOCK_KINDS` are the names of the inputs that mark, for each token,
whether it belongs to an image or a video, and which tokens attend to each other bidirectionally.

To cut tokens inside the vision tower of such a model, describe it as `TowerParts`, and the images of one
run as `TowerImage` objects where a token is not a patch. `FamilyTower` describes both for towers of a known
kind, in a `Family` and elsewhere; `window_places` orders the tokens of towers with windows.

**Vision towers of other libraries.** Derive from `VisionTowerAdapter`, whose `find_tower` describes the model
as a `Tower`: its blocks, a `TokenHead` (with `Matrix` for a bare weight) for what follows them, and for their
attention a `QueryKeyTap`: a `NormTap` or a `ProjectionTap`. `patch_of` reads the size of its patches.

**Projectors.** `in_float32` runs a module in float32; `two_layer_form`, `layer_norm_form`, `norm_form` and
`linear_form` read its weights for closed forms; `layer_norm_form` expects `centred` rows. `RowWise` describes
the part of a projector that works row by row, for a `Family`; `of_layers` reads it from a projector's layers.

**Layouts and signals.** `grid_of`, `square_of` and `tiled_layout` describe where an image's tokens lie, and
`tile_counts` into how many tiles models like LLaVA-NeXT cut pictures; the functions of `clip_signals` compute
the signals of a CLIP-like tower.

**Checks.** A `Specimen` is a tiny model that `tokenprune check` runs, and `filled` initialises its weights;
the functions of `pictures` make random inputs. Override the base class's checks with a `Trial` that yields
`PromiseRecord` objects.
"""

from tokenprune.cut import refuse_new_rows
from tokenprune.gather import take
from tokenprune.projector import in_float32, two_layer_form
from tokenprune.tiles import tiled_layout
from tokenprune.towers.image import TowerImage
from tokenprune.trial import PromiseRecord, Specimen, Trial

from .families import FAMILIES, Family, FamilyAdapter
from .tiny import filled
from .transformers import clip_signals, pictures
from .transformers.calls import LanguageCall
from .transformers.encoded import Encoded, ImageSignal
from .transformers.forms import RowWise, centred, layer_norm_form, linear_form, norm_form, of_layers
from .transformers.grids import grid_of, square_of, tile_counts
from .transformers.plan import RowPlan
from .transformers.stock import BLOCK_KINDS, MODALITY_KINDS, argument_name, config_value, output_field
from .transformers.structural import StructuralAdapter
from .transformers.token_rows import prune_deepstack, prune_layer_inputs
from .transformers.tower.described import FamilyTower, window_places
from .transformers.tower.parts import TowerParts
from .transformers.vlm import TransformersAdapter
from .vit.adapter import VisionTowerAdapter
from .vit.attention import NormTap, ProjectionTap, QueryKeyTap
from .vit.head import Matrix, TokenHead
from .vit.tower import Tower, patch_of

__all__ = [
    "BLOCK_KINDS",
    "FAMILIES",
    "MODALITY_KINDS",
    "Encoded",
    "Family",
    "FamilyAdapter",
    "FamilyTower",
    "ImageSignal",
    "LanguageCall",
    "Matrix",
    "NormTap",
    "ProjectionTap",
    "PromiseRecord",
    "QueryKeyTap",
    "RowPlan",
    "RowWise",
    "Specimen",
    "StructuralAdapter",
    "TokenHead",
    "Tower",
    "TowerImage",
    "TowerParts",
    "TransformersAdapter",
    "Trial",
    "VisionTowerAdapter",
    "argument_name",
    "centred",
    "clip_signals",
    "config_value",
    "filled",
    "grid_of",
    "in_float32",
    "layer_norm_form",
    "linear_form",
    "norm_form",
    "of_layers",
    "output_field",
    "patch_of",
    "pictures",
    "prune_deepstack",
    "prune_layer_inputs",
    "refuse_new_rows",
    "square_of",
    "take",
    "tile_counts",
    "tiled_layout",
    "two_layer_form",
    "window_places",
]
