"""Select the held-out rows of the evaluation: those that both models of the pair can read in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from distillab.data.encoding import Dropped, EncodedRow
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
) -> tuple[tuple[Example, ...], Counter[NotJudged]]:
    """Select the held-out rows that every tokenizer of the pair reads whole, with room for an answer in the context.

    So all models are evaluated on the same text. A prompt needs a token that generation continues.

    Returns:
        The rows; and how many are left out for each reason, the first one that applies.
    """
    left = list(splits.held_out)
    reasons: Counter[NotJudged] = Counter()
    for reader, longest in zip(readers, longest_prompts, strict=True):
        split = reader.encoder.encode_all(splits.held_out, source=splits.sources[1])
        rows = {row.key: row for row in split.rows}
        found = [_unfit(reader, example, rows.get(example.key), longest) for example in left]
        reasons.update(reason for reason in found if reason is not None)
        left = [example for example, reason in zip(left, found, strict=True) if reason is None]
    return tuple(left), reasons


def _unfit(reader: Reader, example: Example, row: EncodedRow | None, longest: int | None) -> NotJudged | None:
    if row is None:
        dropped = reader.encoder.encode(example)
        assert isinstance(dropped, Dropped)  # not among the kept rows
        return "empty answer" if dropped.reason == "empty_answer" else "too long"
    if row.truncated:
        return "too long"
    prompt = reader.encoder.encode_prompt(example)
    if not prompt:
        return "no prompt"
    return None if longest is None or len(prompt) <= longest else "no room for an answer"


def same_answers(examples: tuple[Example, ...], readers: list[Reader], *, source: str) -> tuple[Example, ...]:
    """Select the examples for which every template keeps the same text of the answer, spaces aside.

    Raises:
        DataError: there were examples, and none is left.
    """
    texts = [[_learned_text(reader, example) for reader in readers] for example in examples]
    kept = tuple(example for example, each in zip(examples, texts, strict=True) if each.count(each[0]) == len(each))
    if examples and not kept:
        raise DataError(
            "The templates of student and teacher keep different text of every held-out answer, so the two cannot be "
            "evaluated on the same text.",
            where=source,
            facts=[f"{reader.loaded.name}: {text[-1][:80]!r}" for reader, text in zip(readers, texts[0], strict=True)],
            fix="remove from the rows what one template drops (reasoning, usually), or use one template for both",
        )
    return kept


def _learned_text(reader: Reader, example: Example) -> list[str]:
    return ["".join(text.text.split()) for text in reader.encoder.supervised_texts(example)]


def encode_eval_rows(
    student: Reader, splits: Splits, examples: tuple[Example, ...], reasons: Mapping[NotJudged, int]
) -> tuple[HeldOut, EncodingCounts]:
    """Encode the held-out rows of the evaluation; return them with counts of all, of those left out, and why."""
    why = {reason: number for reason, number in reasons.items() if number}
    if not examples:
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
    held_out = HeldOut(
        rows=tuple(encoded.rows),
        prompt_ids=tuple(tuple(reader.encoder.encode_prompt(example)) for example in examples),
        prompts=tuple(example.prompt for example in examples),
        answers=tuple(reader.encoder.supervised_texts(example)[-1] for example in examples),
        scored_bytes=tuple(reader.encoder.scored_bytes(example) for example in examples),
        stop_ids=reader.encoder.stop_ids,
    )
    return held_out, encoded.counts
