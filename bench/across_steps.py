"""Whole optimizer steps of the real trainer where teacher and student read the same text by different tokenizers.

The tokenizers are those of Mistral-7B-v0.1 (teacher) and TinyLlama (student), the text questions and answers of GSM8K:
the first rows whose answers have, in the student's tokens, about as many as the other blocks supervise a row. The
models are the random ones of `pair.py`. `same_tokens` is what all are compared with: forward KL on the same rows, read
by the teacher in the student's tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from bench.distillab_steps import Reading, provenance, take_steps
from bench.machine import ROOT
from bench.measure import Probe
from bench.pair import student_of, teacher_of
from bench.settings import ACROSS_BASE, Run, Size
from distillab.config.layer_terms import ContrastiveConfig, SpanHiddenStatesConfig
from distillab.config.terms import (
    DualSpaceConfig,
    MeasuredTransportConfig,
    MergedSpansConfig,
    SortedProbabilitiesConfig,
    SpanLikelihoodConfig,
    TermConfig,
    TokenDivergenceConfig,
    VocabularyProjectionConfig,
)
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.collation import TokenDataset
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.examples import Example, pair_example
from distillab.data.paired import PairedCollator, PairedDataset, PairedRow
from distillab.data.reading import Reader, load_reader
from distillab.data.transport import count_transport
from distillab.data.vocabularies import vocabularies
from distillab.records import SpanCounts
from distillab.teachers import LocalTeacher

STUDENT, TEACHER = "tinyllama-1.1b", "mistral-7b-v0.1"
# An answer is taken if its tokens are the wanted ones within this share.
_NEAR = 0.125
_EXAMPLES_AT_ONCE = 64

TERMS: dict[str, TermConfig] = {
    ACROSS_BASE: TokenDivergenceConfig(),
    "vocabulary_projection": VocabularyProjectionConfig(),
    "vocabulary_projection_common": VocabularyProjectionConfig(form="common"),
    "measured_transport": MeasuredTransportConfig(),
    "span_likelihood": SpanLikelihoodConfig(),
    "merged_spans": MergedSpansConfig(),
    "sorted_probabilities": SortedProbabilitiesConfig(),
    "dual_space": DualSpaceConfig(),
    "contrastive": ContrastiveConfig(),
    "span_hidden_states": SpanHiddenStatesConfig(),
}


@dataclass(frozen=True, eq=False)
class TextPair:
    """The rows of a step: in the student's tokens, and in both tokenisations."""

    student: Reader
    teacher: Reader
    split: EncodedSplit
    rows: list[PairedRow]
    counts: SpanCounts

    def reading(self, size: Size, *, paired: bool) -> Reading:
        """What the trainer is given: both tokenisations, for models with logits for so many ids, or the student's."""
        ours, theirs = self.student.collator(), self.teacher.collator()
        names = [example.origin for example in self.split.examples]
        if not paired:
            return Reading(TokenDataset(self.split), ours, names)
        both = vocabularies(self.student, self.teacher, student_width=size.vocabulary, teacher_width=size.vocabulary)
        both = replace(
            both, counts=count_transport(self.rows, student=self.student, teacher=self.teacher, vocabularies=both)
        )
        return Reading(PairedDataset(self.rows), PairedCollator(ours, theirs), names, both)


def train_across(run: Run, probe: Probe) -> None:
    """Steps on the term that the case names, over real text."""
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", ROOT / ".." / "shared" / "data")).resolve()
    student, teacher = (
        load_reader(
            str(materials / "tokenizers" / name),
            revision=None,
            template="auto",
            kind="pair",
            max_tokens=run.shape.row_length,
        )
        for name in (STUDENT, TEACHER)
    )
    examples = examples_of(materials / "text" / "gsm8k" / "train.jsonl")
    train_on(run, probe, text_pair(run.shape, student, teacher, examples))


def train_on(run: Run, probe: Probe, text: TextPair) -> None:
    """Steps on the term that the case names, over given rows."""
    size, paired = run.shape, run.case != ACROSS_BASE
    counts = text.counts
    probe.facts.update(
        tokens=sum(len(row.student) for row in text.rows),
        supervised=counts.student_tokens,
        supervised_of_teacher=counts.teacher_tokens,
        spans=counts.spans,
        one_to_one=counts.one_to_one,
    )
    take_steps(
        run,
        probe,
        student=student_of(size, run.device),
        teacher=LocalTeacher(teacher_of(size, run.device), provenance()),
        terms=(TERMS[run.case],),
        reading=text.reading(size, paired=paired),
    )


def text_pair(size: Size, student: Reader, teacher: Reader, examples: Iterator[Example]) -> TextPair:
    """The first examples that fill a step: answers of about half of a row's tokens, nothing cut off on either side.

    Raises:
        ValueError: the examples end before.
    """
    wanted, kept = size.row_length // 2, list[Example]()
    while len(kept) < size.rows:
        some = list(islice(examples, _EXAMPLES_AT_ONCE))
        if not some:
            raise ValueError(f"{len(kept)} of {size.rows} rows have answers of about {wanted} tokens")
        ours, theirs = (reader.encoder.encode_all(some, source="text").rows for reader in (student, teacher))
        whole = {row.key for row in theirs if not row.truncated}
        near = {row.key for row in ours if not row.truncated and abs(_supervised(row) - wanted) <= _NEAR * wanted}
        kept += [example for example in some if example.key in whole & near]
    split, their_split = (reader.encoder.encode_all(kept[: size.rows], source="text") for reader in (student, teacher))
    rows, counts = pair_rows(split.rows, their_split.rows, aligner=span_aligner(student, teacher))
    return TextPair(student, teacher, split, rows, counts)


def examples_of(path: Path) -> Iterator[Example]:
    """Questions and answers of a file of JSON lines."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            name = f"{path.name}:{number}"
            yield pair_example(name, name, instruction=row["question"], context="", answer=row["answer"])


def _supervised(row: EncodedRow) -> int:
    return int(row.answer_mask.sum())
