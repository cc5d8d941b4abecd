"""How probable each model finds the tokens of the first held-out answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from distillab.records import TokenView
from distillab.runs.inputs import RunInputs


def first_answer_view(inputs: RunInputs, lines: Mapping[str, Sequence[dict[str, Any]]]) -> TokenView | None:
    """Return the first held-out answer with the models whose tokens are the student's; None where there is none.

    Args:
        lines: of each model, as `read_held_out` gives them.
    """
    if not len(inputs.eval_rows):
        return None
    row = inputs.eval_rows[0]
    # a model predicts a token from those before it, so the first one of all has no probability
    scored = [place for place, counts in enumerate(row.answer_mask) if counts and place > 0]
    nats = {name: found for name, each in lines.items() if each and len(found := each[0].get("token_nats", ())) > 0}
    probs = {name: tuple(map(_prob, found)) for name, found in nats.items() if len(found) == len(scored)}
    if not probs:
        return None
    pieces = _pieces(inputs.student.tokenizer, [int(token) for token in row.input_ids])
    return TokenView(prompt=inputs.held_out.prompts[0], tokens=tuple(pieces[place] for place in scored), probs=probs)


def _prob(nats: float) -> float:
    return round(math.exp(-nats), 6)


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Return what each id adds to the text; of a part of a character, the tokenizer's own name."""
    pieces, before = [], ""
    for place, token in enumerate(ids):
        text = str(tokenizer.decode(ids[: place + 1]))
        is_whole = text.startswith(before) and not text.endswith("\ufffd") and text != before
        pieces.append(text[len(before) :] if is_whole else str(tokenizer.convert_ids_to_tokens(token)))
        before = text
    return pieces
