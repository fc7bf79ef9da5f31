# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval asks of a task: the picture, the question, and whether the answer is right."""

from pathlib import Path

from PIL import Image
from tokenprune_evaluation.metrics import exact_match

FOLDER = Path(__file__).parent


def doc_to_visual(doc):
    """Open the picture, which lies beside this file."""
    return [Image.open(FOLDER / doc["image"]).convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """Ask the question as it is."""
    return doc["question"]


def process_results(doc, results):
    """Judge the answer as tokenprune's own evaluation does."""
    return {"exact_match": exact_match(results[0], [doc["answer"]])}
