# SPDX-License-Identifier: Apache-2.0
"""Everything answers depend on but the method: written down, printed, and the key of what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from tokenprune_cli.compare.answers import Work
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.model_name import model_name
from tokenprune_cli.records import Provenance

FORMAT = 1  # of the journal
OF_PICTURES = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "patch_size", "merge_size", "image_grid_pinpoints",
)  # fmt: skip


def configuration(
    name: str | None, model: Any, processor: Any, questions: QuestionSet, work: Work
) -> dict[str, Any]:
    """Write down model, questions, preprocessing and versions.

    Parameters
    ----------
    name
        The model's, None: the embedded one.
    """
    return {
        "format": FORMAT,
        "model": model_name(name),
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "questions": {"name": questions.name, "n": len(questions.items), "digest": questions.digest},
        "preprocessing": preprocessing(processor),
        "batch": work.batch,
        "max_new_tokens": work.max_new_tokens,
        "seed": work.seed,
        "versions": Provenance.here(model.device).versions,
    }


def preprocessing(processor: Any) -> dict[str, Any]:
    """What the image processor does to pictures; where they keep their shape, `size` limits their pixels."""
    settings: Mapping[str, Any] = processor.image_processor.to_dict()
    found = {name: settings[name] for name in OF_PICTURES if settings.get(name) is not None}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
    return {"image_processor": type(processor.image_processor).__name__, **plain}


def fingerprint(model: Any) -> str:
    """Sixteen digits that change with any weight matrix' name, shape or first values."""
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        first = weight.detach().flatten()[:64].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)}".encode() + first.numpy().tobytes())
    return found.hexdigest()[:16]


def said(configuration: Mapping[str, Any], mean_tokens: float) -> str:
    """One line about preprocessing, for people."""
    given: Mapping[str, Any] = configuration["preprocessing"]
    size = given.get("size") or {}
    parts = [str(given["image_processor"])]
    if given.get("do_resize"):
        parts.append("resized to " + ", ".join(f"{name} {value}" for name, value in size.items() if value))
    if given.get("do_center_crop"):
        crop = given.get("crop_size") or {}
        parts.append("cropped to " + " x ".join(str(v) for v in crop.values() if v))
    parts.append("padded" if given.get("do_pad") else "not padded")
    return f"{'; '.join(parts)}; {mean_tokens:.1f} visual tokens a picture on average"
