# SPDX-License-Identifier: Apache-2.0
"""Write docs/compare.md from the committed record: `python -m pages.compare` in the checkout.

The record is that of `tokenprune compare`: `compare.json` of its output, taken to docs/benchmarks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune_cli.compare.protocols import EXPLANATIONS
from tokenprune_cli.compare.table import (
    CONVERSATION,
    CONVERSATION_LEGEND,
    LEGEND,
    QUESTIONS,
    conclusions,
    markdown_table,
    refusals,
)

PAGE, RECORD = Path("docs/compare.md"), Path("docs/benchmarks/compare.json")

HEAD = """# Comparing methods

This page is written by `python -m pages.compare` from `docs/benchmarks/compare.json`. The
same again, on your machine: `tokenprune compare --conversation`; the options are on the page
[Command line](cli.md).

Every method answers the same questions at the same budgets. The number of kept tokens says little on its own:
a method that cuts inside the language model lets all tokens through its first layers. So each line states the
visual rows *entering* a layer, averaged over the layers, the operations of tower, choosing and language
model together, and the measured time to the first token. Unpruned, smaller pictures (`downsample`), every
so many-th token (`stride`) and `random` tokens stand in every table, and each score also as a share of what
the same model scores unpruned.

The single questions took 323 seconds on the two cores named below, the conversations 216 more. The same
figures as a spreadsheet: `docs/benchmarks/compare.csv`.

## Two protocols
"""

READING = """## Reading the table

- **Intervals.** `to own` and `to random` are 95 % intervals of the difference on the same questions:
  pictures are drawn with replacement 2000 times, all questions of a picture together, the same draw on both
  sides (paired percentile bootstrap). An interval that holds 0 is noise, however large the difference
  looks.
- **Methods with a question mark saw the question.** They choose by signals made of the text after the
  image. With one question a picture that is an advantage; what becomes of it when another question follows
  is what the conversation shows.
- **Conversation.** Whoever goes on asking about a picture asks what the first question left of it. *anew*
  is that alone: every later question is put to the kept rows on its own, as if the first had never been
  asked. *talk* goes on in the same chat, the model's own answers included; the embedded model was trained
  on single questions and loses its way there unpruned too, so read that column against its first line.
- **Budgets that cannot be reached** are printed with the reason: before its first cut a method in the
  language model sees every token, so that its average over the layers has a floor.
- **Time** is that of one question at a time, all settings in turns in one run. On a model this small most
  of it is Python, not arithmetic; look at the operations.
- The embedded model is no general model, and its ranking of methods need not carry over to one (its model
  card, `plugins/tokenprune_cli/embedded/llava/README.md`, says what it is).
- **Where a method cuts matters more here than what it keeps.** Methods that cut inside the language model
  answer nearly as well as the unpruned model, and later questions of a conversation hardly worse. That is
  not their choice of tokens: nine tokens taken at random answer 90.4 % right when they are cut before layer
  1 (`tokenprune.apply(model, scorer="random", layer=1, keep=9)`, the same 541 questions), where FastV with
  the same rows answers 92.1 %; cut before the language model, nine random tokens answer 33.8 %. One layer
  that sees all tokens is enough for this model. `random` in the tables is cut before the language model:
  compare with it the methods that cut there too.

## Your own questions

A file of JSON lines, images beside it or with absolute paths:

```json
{"image": "cat.jpg", "question": "Is there a cat?", "answer": "yes", "metric": "yes_no_f1"}
{"image": "cat.jpg", "question": "What is it on?", "answers": ["sofa", "couch"], "metric": "vqa_accuracy"}
```

`exact_match` compares whole answers, upper and lower case alike; `yes_no_f1` counts as POPE does;
`vqa_accuracy` as VQAv2 does, one answer a person. Each metric gets a table. `--model` takes any model an
adapter knows, several of them one after the other, and the report states what their image processors do to
a picture and how many visual tokens that makes. Tower features are computed once for all methods and give
bit by bit the answers that each method gives alone; where an adapter listens inside the tower, it is run
for each method.

A run that was killed goes on where it was: the same command reads `answers.jsonl` and answers only what is
missing.
"""


def page(record: Mapping[str, Any]) -> str:
    """Write the page from a record."""
    parts = [HEAD]
    parts += [f"- **{name}**: {text}" for name, text in EXPLANATIONS.items()]
    parts += ["", *(_model(record, model) for model in record["models"]), READING]
    return "\n".join(parts)


def _model(record: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    place = machine["gpu"] or f"{machine['cores']} cores of {machine['processor'] or 'an unnamed processor'}"
    lines = [
        f"## What came out: {model['name']}",
        "",
        f"{model['questions']} questions about {model['pictures']} pictures "
        f"({model['configuration']['questions']['name']}); {model['preprocessing']}. Measured with "
        f"`{record['command']}` on {place} ({machine['architecture']}, {machine['system']}), "
        f"Python {versions['python']}, PyTorch {versions['torch']}, transformers {versions['transformers']}, "
        f"tokenprune-vlm {versions['tokenprune-vlm']}.",
        "",
    ]
    for protocol in dict.fromkeys(line["protocol"] for line in model["lines"]):
        for metric in model["metrics"]:
            lines += [f"### {protocol}: {metric}", "", markdown_table(model, protocol, metric, QUESTIONS), ""]
        lines += [*(f"- {sentence}" for sentence in conclusions(model, protocol)), ""]
    lines += [LEGEND, ""]
    if "conversation" in model:
        lines += _conversation(model)
    lines += [f"- [{number}] {reason}" for reason, number in refusals(model).items()]
    lines += [
        f"- `{method}` cannot be used on this model: {reason}"
        for method, reason in model["unavailable"].items()
    ]
    return "\n".join([*lines, ""])


def _conversation(model: Mapping[str, Any]) -> list[str]:
    """Tables of the conversation track."""
    held = model["conversation"]
    lines = [
        "### Conversation",
        "",
        f"{held['pictures']} pictures, one first question each in an order of chance, "
        f"{held['later_questions']} later ones. Tokens are chosen for the first.",
        "",
    ]
    for protocol in dict.fromkeys(line["protocol"] for line in model["lines"]):
        for metric in model["metrics"]:
            lines += [f"{protocol}, {metric}:", "", markdown_table(model, protocol, metric, CONVERSATION), ""]
    return [*lines, CONVERSATION_LEGEND, ""]


def main() -> None:
    """Rewrite docs/compare.md in the current directory."""
    if not RECORD.is_file():
        sys.exit(f"run this in the checkout: there is no {RECORD} here")
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
