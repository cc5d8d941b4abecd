"""Select the held-out rows of the evaluation: those that both models of the pair can read in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from distillab.data.encoded_rows import PLACES, EncodedRows
from distillab.data.encoding import Dropped
from distillab.data.example_table import ExampleTable
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.splits import Splits
from distillab.errors import DataError
from distillab.evaluation.protocol import HeldOut
from distillab.records import FEWEST_ROWS, EncodingCounts, NotJudged


def held_out_for(reader: Reader, examples: Sequence[Example]) -> HeldOut:
    """Encode held-out rows with a reader's tokenizer and template."""
    return _read(reader, examples, source="held-out rows")[0]


def held_out_line(counts: EncodingCounts, *, wanted: int, max_tokens: int, max_new_tokens: int) -> str:
    """Return one line on the held-out rows: `2 of 20 held-out rows can be evaluated: 18 too long; …`.

    Args:
        counts: of the held-out rows.
        wanted: evaluation.rows.
        max_tokens, max_new_tokens: data.max_tokens, and evaluation.max_new_tokens.
    """
    line = f"{counts.kept} of {counts.rows} held-out rows can be evaluated"
    if counts.left_out:
        line += f": {counts.reasons}"
    if "too long" in counts.left_out_for:
        line += f"; data.max_tokens {max_tokens} is their limit, raise it"
    if "no room for an answer" in counts.left_out_for:
        line += f"; evaluation.max_new_tokens {max_new_tokens} leaves no room in the context, lower it"
    if counts.kept > wanted:
        line += f"; evaluation.rows takes the first {wanted}"
    elif counts.rows < wanted:
        line += f" (evaluation.rows is {wanted})"
    if min(counts.kept, wanted) < FEWEST_ROWS:
        line += f". Below {FEWEST_ROWS} rows a difference gets no interval"
    return f"{line}."


def fitting_rows(
    splits: Splits, readers: list[Reader], longest_prompts: list[int | None]
) -> tuple[ExampleTable, Counter[NotJudged]]:
    """Select the held-out rows that every tokenizer of the pair reads whole, with room for an answer in the context.

    So all models are evaluated on the same text. A prompt needs a token that generation continues.

    Returns:
        The rows; and how many are left out for each reason, the first one that applies.
    """
    left = np.arange(len(splits.held_out))
    reasons: Counter[NotJudged] = Counter()
    for reader, longest in zip(readers, longest_prompts, strict=True):
        unfit = _unfit(reader, splits, longest)
        reasons.update(unfit[place] for place in left.tolist() if place in unfit)
        left = left[~np.isin(left, list(unfit))]
    return splits.held_out.take(left), reasons


def _unfit(reader: Reader, splits: Splits, longest: int | None) -> dict[int, NotJudged]:
    """Return why held-out rows cannot be evaluated, by their places."""
    encoder, examples = reader.encoder, splits.held_out
    rows = encoder.encode_all(examples, source=splits.sources[1]).rows
    assert isinstance(rows, EncodedRows)  # which `encode_all` returns
    places, cut = rows.columns[PLACES], rows.columns["truncated"]
    found: dict[int, NotJudged] = dict.fromkeys(places[cut].tolist(), "too long")
    lost = np.setdiff1d(np.arange(len(examples)), places).tolist()
    for place, dropped in zip(lost, encoder.encode_some(examples.take(lost)), strict=True):
        empty = isinstance(dropped, Dropped) and dropped.reason == "empty_answer"
        found[place] = "empty answer" if empty else "too long"
    whole = places[~cut]
    prompts = encoder.prompt_lengths(rows, examples.take(places))[~cut]
    if longest is not None:
        found |= dict.fromkeys(whole[prompts > longest].tolist(), "no room for an answer")
    return found | dict.fromkeys(whole[prompts == 0].tolist(), "no prompt")


def same_answers(examples: ExampleTable, readers: list[Reader], *, source: str) -> ExampleTable:
    """Select the examples for which every template keeps the same text of the answer, spaces aside.

    Raises:
        DataError: there were examples, and none is left.
    """
    templates = [reader.encoder.template for reader in readers]
    if all(one.keeps_text and one.sha256 == templates[0].sha256 for one in templates):
        return examples
    texts = ([_learned_text(reader, example) for reader in readers] for example in examples)
    kept = [place for place, each in enumerate(texts) if each.count(each[0]) == len(each)]
    if len(examples) and not kept:
        each = [_learned_text(reader, examples[0]) for reader in readers]
        raise DataError(
            "The templates of student and teacher keep different text of every held-out answer, so the two cannot be "
            "evaluated on the same text.",
            where=source,
            facts=[f"{reader.loaded.name}: {text[-1][:80]!r}" for reader, text in zip(readers, each, strict=True)],
            fix="remove from the rows what one template drops (reasoning, usually), or use one template for both",
        )
    return examples.take(kept)


def _learned_text(reader: Reader, example: Example) -> list[str]:
    return ["".join(text.text.split()) for text in reader.encoder.supervised_texts(example)]


def encode_eval_rows(
    student: Reader, splits: Splits, examples: ExampleTable, reasons: Mapping[NotJudged, int]
) -> tuple[HeldOut, EncodingCounts]:
    """Encode the held-out rows of the evaluation; return them with counts of all, of those left out, and why."""
    why = {reason: number for reason, number in reasons.items() if number}
    if not len(examples):
        raise DataError(
            "No held-out row fits whole into data.max_tokens, has a prompt, and leaves room for "
            "evaluation.max_new_tokens.",
            where=splits.sources[1],
            facts=[f"held-out rows: {len(splits.held_out)}", *(f"{reason}: {n}" for reason, n in why.items())],
            fix="raise data.max_tokens, lower evaluation.max_new_tokens, or hold out shorter rows, "
            "of more than one character",
        )
    held_out, counts = _read(student, examples, source=splits.sources[1])
    left_out = len(splits.held_out) - len(examples)
    update = {"rows": len(splits.held_out), "left_out": left_out, "left_out_for": why}
    return held_out, counts.model_copy(update=update)


def _read(reader: Reader, examples: Sequence[Example], *, source: str) -> tuple[HeldOut, EncodingCounts]:
    encoded = reader.encoder.encode_all(examples, source=source)
    return HeldOut(encoded.rows, encoded.examples, reader.encoder), encoded.counts
