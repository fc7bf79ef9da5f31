# SPDX-License-Identifier: Apache-2.0
"""Describe everything besides the method that answers depend on; a run with other values is not resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune.setting import fingerprint
from tokenprune_evaluation.model_name import model_name
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.records import Provenance

FORMAT = 1  # version of the journal's format
PREPROCESSING = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "patch_size", "merge_size", "image_grid_pinpoints",
)  # fmt: skip


def configuration(
    name: str | None, model: Any, processor: Any, questions: QuestionSet, **options: Any
) -> dict[str, Any]:
    """Return model, questions, preprocessing, options and versions as plain data.

    Parameters
    ----------
    name
        The model as the user named it; None: the embedded model.
    """
    return {
        "format": FORMAT,
        "model": model_name(name),
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "questions": {"name": questions.name, "n": len(questions.items), "digest": questions.digest},
        "preprocessing": preprocessing(processor),
        **options,
        "versions": Provenance.here(model.device).versions,
    }


def preprocessing(processor: Any) -> dict[str, Any]:
    """Return the image processor's settings; if it keeps the aspect ratio, `size` limits the pixels."""
    settings: Mapping[str, Any] = processor.image_processor.to_dict()
    values = {name: settings[name] for name in PREPROCESSING if settings.get(name) is not None}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    return {"image_processor": type(processor.image_processor).__name__, **plain}


def describe_preprocessing(configuration: Mapping[str, Any], mean_tokens: float) -> str:
    """Describe the preprocessing in one line."""
    settings: Mapping[str, Any] = configuration["preprocessing"]
    size = settings.get("size") or {}
    parts = [str(settings["image_processor"])]
    if settings.get("do_resize"):
        parts.append("resized to " + ", ".join(f"{name} {value}" for name, value in size.items() if value))
    if settings.get("do_center_crop"):
        crop = settings.get("crop_size") or {}
        parts.append("cropped to " + " x ".join(str(v) for v in crop.values() if v))
    parts.append("padded" if settings.get("do_pad") else "not padded")
    return f"{'; '.join(parts)}; {mean_tokens:.1f} visual tokens a picture on average"
