"""Decide how the teacher of a run reads rows: with which tokenizer, and how many ids are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from distillab.config.terms import TokenRequirement
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.reading import Reader
from distillab.data.vocabularies import Vocabularies, vocabularies
from distillab.records import TokenizerContract, TokenizerInfo
from distillab.teachers.spec import TeacherSpec


@dataclass(frozen=True, eq=False)
class TokenizerPair:
    """The tokenizers of both models, and what is derived from them, once for all runs that share them."""

    student: Reader
    teacher: Reader
    contract: TokenizerContract

    @cached_property
    def vocabularies(self) -> Vocabularies:
        """Both vocabularies, for the terms on two tokenisations."""
        return vocabularies(
            self.student,
            self.teacher,
            student_width=vocab_size(self.contract.student),
            teacher_width=vocab_size(self.contract.teacher),
        )

    def encoded_for_teacher(self, split: EncodedSplit) -> EncodedSplit:
        """Encode the examples of a split with the teacher's tokenizer; the last two splits are kept."""
        for known, encoded in self._encoded:
            if known is split:
                return encoded
        encoded = self.teacher.encoder.encode_all(split.examples, source=split.counts.source)
        self._encoded[:] = [*self._encoded[-1:], (split, encoded)]
        return encoded

    @cached_property
    def _encoded(self) -> list[tuple[EncodedSplit, EncodedSplit]]:
        return []  # a run needs its training rows, or those with the teacher's answers, in several places


@dataclass(frozen=True, eq=False)
class TokenView:
    """One way in which a teacher reads rows.

    Attributes:
        reader: whose tokenizer makes the teacher's inputs.
        fingerprint: of that tokenizer.
        width: ids of the teacher's distributions that are read.
    """

    reader: Reader
    fingerprint: str
    width: int


@dataclass(frozen=True, eq=False)
class TeacherView:
    """The teacher of a run before its weights are loaded.

    Attributes:
        spec: its name and files.
        pair: its tokenizer and the student's.
        tokens: whether the terms of the run compare ids (`shared`), or align two tokenisations (`aligned`).
    """

    spec: TeacherSpec
    pair: TokenizerPair
    tokens: TokenRequirement

    @property
    def reader(self) -> Reader:
        """The teacher's own tokenizer and template."""
        return self.pair.teacher

    @property
    def contract(self) -> TokenizerContract:
        """How the two tokenizers relate."""
        return self.pair.contract

    @property
    def own_tokens(self) -> bool:
        """Whether the teacher reads its own tokens, which the terms align with the student's."""
        return self.tokens == "aligned"

    @property
    def mismatched_vocab(self) -> bool:
        """True where the terms compare tokens by their ids, and the ids do not mean the same."""
        return self.contract.verdict == "different" and self.tokens == "shared"

    @property
    def compared_width(self) -> int:
        """Ids that the terms compare: those that mean the same to both models.

        If no ids do and the run compares by index on purpose (a shown failure): the ids of the smaller vocabulary.
        """
        if self.mismatched_vocab:
            return min(vocab_size(self.contract.teacher), vocab_size(self.contract.student))
        return self.contract.shared_width

    @property
    def vocabularies(self) -> Vocabularies | None:
        """Both vocabularies, for terms on two tokenisations; None where there is one."""
        return self.pair.vocabularies if self.own_tokens else None

    @property
    def train_view(self) -> TokenView:
        """How the teacher reads the training rows."""
        if self.own_tokens:
            return TokenView(self.reader, self.contract.teacher.fingerprint, vocab_size(self.contract.teacher))
        return TokenView(self.pair.student, self.contract.student.fingerprint, self.compared_width)

    @property
    def eval_view(self) -> TokenView:
        """How the teacher reads the held-out rows on which students are evaluated."""
        return TokenView(self.pair.student, self.contract.student.fingerprint, self.contract.shared_width)

    def rows(self, split: EncodedSplit) -> Sequence[EncodedRow]:
        """Return the rows of a split as the teacher's inputs; with two tokenisations those that fit into it."""
        return self.pair.encoded_for_teacher(split).rows if self.own_tokens else split.rows


def vocab_size(info: TokenizerInfo) -> int:
    """Return the number of ids that a tokenizer has and its model has logits for."""
    return min(width for width in (info.tokens, info.logits_width) if width is not None)
