"""Examines what a trainer is given: the batches of any data collator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

from distillab.doctor.batch.attention import check_attention, read_kinds
from distillab.doctor.batch.eos import check_ends
from distillab.doctor.batch.ids import check_ids, much_unknown
from distillab.doctor.batch.label_offset import PlacedRow, place, placements
from distillab.doctor.batch.labels import check_labels
from distillab.doctor.batch.markers import check_template, read_row
from distillab.doctor.batch.packing import check_packing, check_sequences, samples_of
from distillab.doctor.batch.rows import IGNORED, GivenBatches, Learns, Shifts, Told, read_batches
from distillab.doctor.batch.scored import check_scored
from distillab.doctor.batch.tokens import TokenFacts, token_facts
from distillab.doctor.causes import with_causes
from distillab.errors import ConfigError
from distillab.records import CheckResult

__all__ = ["IGNORED", "BatchReading", "Learns", "Shifts", "Told", "audit_batch", "run_batch_checks"]


@dataclass(frozen=True, eq=False)
class BatchReading:
    """The results, and the rows as they were read, for those who show them.

    Attributes:
        rows: as they were given, each with its labels where they are meant, or, where they belong to another text,
            where they stand.
    """

    checks: tuple[CheckResult, ...]
    rows: tuple[PlacedRow, ...]
    facts: TokenFacts


def audit_batch(
    batches: object,
    tokenizer: PreTrainedTokenizerFast,
    *,
    shifts: Shifts | None = None,
    learns: Learns | None = None,
    ignore_index: int = IGNORED,
    pad_id: int | None = None,
    vocabulary: int | None = None,
    absolute_positions: bool | None = None,
) -> tuple[CheckResult, ...]:
    """Look for faults in what a trainer is given. Nothing is changed, and no model is needed.

    Args:
        batches: a mapping with `input_ids` and `labels` (and `attention_mask`, `position_ids`), (B, L) each, as
            tensors, arrays or lists; a list of such mappings; or a DataLoader, of which the first 64 are read.
        tokenizer: with which the batch was made.
        shifts: what moves logits and labels by one position against each other. "model": the model or the loss, as in
            transformers, so labels stand in place; "batch": the labels arrive moved, and nothing moves them again.
            None: not known; labels that arrive moved are then an error, because nearly everything shifts them again.
        learns: what should be scored, "answers", the whole "text", or "prompts" (of a model that plays the user); None:
            not known.
        ignore_index: the label that is not scored.
        pad_id: of the padding, where it is not the tokenizer's own padding token.
        vocabulary: rows of the model's output layer, where they are known.
        absolute_positions: the model learns a vector for every position (GPT-2) and counts from the first token of a
            row; None: not known, and not judged.
    Returns:
        one record for each check.
    Raises:
        DataError: no batch of a causal model, or nothing to read in it.
        ShapeError: labels or masks are shaped otherwise than the ids.
        ConfigError: ignore_index is a token's id.
    """
    told = Told(shifts, learns, ignore_index, pad_id, vocabulary, absolute_positions)
    return run_batch_checks(read_batches(batches), tokenizer, told).checks


def run_batch_checks(given: GivenBatches, tokenizer: PreTrainedTokenizerFast, told: Told) -> BatchReading:
    """`audit_batch` on batches that were read; it also gives the rows."""
    facts = replace(token_facts(tokenizer, told.pad_id), told=told)
    ignored = told.ignore_index
    if ignored >= 0 and facts.meaning(ignored).kind in ("text", "byte"):
        raise ConfigError(
            "The label that is not scored is an ordinary token.", facts=[f"ignore_index: {facts.name(ignored)}"]
        )
    if facts.unk is not None and much_unknown(given.rows, facts):
        facts = replace(facts, padding=facts.padding - {facts.unk})
    given, of_masks = read_kinds(given, facts)
    found = placements(given.rows, facts)
    placed = tuple(
        place(row, placement, facts)
        for row, placement in zip(given.rows, found, strict=True)
        if placement.kind not in ("unrelated", "other_row", "denoising")
    )
    texts = [read_row(row, facts) for row in placed]
    # attention, and what begins, repeats or is spelled, is judged for every row
    every = tuple(
        place(row, replace(placement, offset=0), facts) for row, placement in zip(given.rows, found, strict=True)
    )
    samples = [sample for row in placed for sample in samples_of(row)]
    every_sample = [read_row(sample, facts) for row in every for sample in samples_of(row)]
    checks = with_causes(
        (
            check_labels(given.rows, found, facts),
            check_scored(texts, facts),
            check_ends(samples, facts),
            check_attention(every, facts, given, of_masks),
            check_packing(texts, facts, given),
            check_sequences(every_sample, samples, facts),
            check_template([read_row(row, facts) for row in every], facts),
            check_ids(given.rows, placed, facts),
        )
    )
    judged = {(row.row.batch, row.row.place): row for row in placed}
    rows = tuple(judged.get((row.row.batch, row.row.place), row) for row in every)
    return BatchReading(checks, rows, facts)
