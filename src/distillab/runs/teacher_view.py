"""Decide how the teacher of a run reads rows: with which tokenizer, and how many ids are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from distillab.config.term_base import TokenRequirement
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.splits import Splits
from distillab.data.teacher_columns import require_every_teacher, require_names, teacher_rows, with_teacher_prompts
from distillab.data.vocabularies import Vocabularies, vocabularies
from distillab.models.loading import context_length, load_config
from distillab.records import TokenizerContract, TokenizerInfo
from distillab.teachers.composed import composed_name
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
        return self._kept(
            split, "", lambda: self.teacher.encoder.encode_all(split.examples, source=split.counts.source)
        )

    def prompted(self, split: EncodedSplit, column: str, *, context: int | None) -> EncodedSplit:
        """Encode the examples of a split with the student's tokenizer and the teacher's prompts of a column.

        Raises:
            DataError: see `with_teacher_prompts` and `teacher_rows`.
        """
        source = split.counts.source

        def encoded() -> EncodedSplit:
            examples = with_teacher_prompts(split.examples, column, where=source)
            rows = teacher_rows(self.student.encoder, examples, split.rows, context=context, where=source)
            return EncodedSplit(rows, examples, split.counts)

        return self._kept(split, column, encoded)

    def _kept(self, split: EncodedSplit, column: str, encode: Callable[[], EncodedSplit]) -> EncodedSplit:
        for known, of, encoded in self._encoded:
            if known is split and of == column:
                return encoded
        made = encode()
        self._encoded[:] = [*self._encoded[-1:], (split, column, made)]
        return made

    @cached_property
    def _encoded(self) -> list[tuple[EncodedSplit, str, EncodedSplit]]:
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
            return self.own_view
        return TokenView(self.pair.student, self.contract.student.fingerprint, self.compared_width)

    @property
    def own_view(self) -> TokenView:
        """How the teacher reads rows in its own tokens."""
        return TokenView(self.reader, self.contract.teacher.fingerprint, vocab_size(self.contract.teacher))

    @property
    def eval_view(self) -> TokenView:
        """How the teacher reads the held-out rows on which students are evaluated."""
        return TokenView(self.pair.student, self.contract.student.fingerprint, self.contract.shared_width)

    @property
    def context(self) -> int | None:
        """Tokens that the teacher reads at most; None: its configuration names no limit, or is not known."""
        if self.spec.text_only:
            return None
        return context_length(load_config(self.spec.config, revision=self.spec.revision))

    @property
    def prompt_column(self) -> str | None:
        """The column with the prompts that the teacher alone reads."""
        return self.spec.settings.prompt_column

    def rows(self, split: EncodedSplit) -> Sequence[EncodedRow]:
        """Return the rows of a split as the teacher's inputs; with two tokenisations those that fit into it.

        Raises:
            DataError: see `TokenizerPair.prompted`.
        """
        if self.own_tokens:
            return self.pair.encoded_for_teacher(split).rows
        if self.prompt_column is not None:
            return self.pair.prompted(split, self.prompt_column, context=self.context).rows
        return split.rows

    def as_read(self, examples: Sequence[Example], *, where: str) -> Sequence[Example]:
        """Return examples with the prompts that the teacher reads.

        Raises:
            DataError: see `with_teacher_prompts`.
        """
        column = self.prompt_column
        return examples if column is None else with_teacher_prompts(examples, column, where=where)

    @property
    def alone(self) -> Reader:
        """The teacher's own tokenizer and template for rows that the student does not read with it."""
        if self.prompt_column is None:
            return self.reader
        return replace(self.reader, encoder=self.reader.encoder.with_max_tokens(self.context))


def vocab_size(info: TokenizerInfo) -> int:
    """Return the number of ids that a tokenizer has and its model has logits for."""
    return min(width for width in (info.tokens, info.logits_width) if width is not None)


def together(views: Mapping[str, TeacherView], weights: Mapping[str, float]) -> TeacherView | None:
    """Return one view for several teachers: the one with the fewest ids in common with the student, under all names.

    It stands for all of them where they must be alike: whether ids are compared, and how many.

    Args:
        weights: of a mixture, by name; empty where there is none.
    """
    if not views:
        return None
    first = min(views.values(), key=lambda view: view.contract.shared_width)
    if len(views) == 1:
        return first
    name = composed_name({name: (weights.get(name), view.spec.name) for name, view in views.items()})
    settings = first.spec.settings.model_copy(update={"cache": None, "prompt_column": None})
    return TeacherView(replace(first.spec, name=name, settings=settings, parts={}), first.pair, first.tokens)


def require_columns(views: Mapping[str, TeacherView], splits: Splits, column: str | None) -> None:
    """Refuse rows that lack what the teachers need of them.

    Args:
        views: the teachers by their names.
        column: that names each row's teacher; None: every teacher reads every row.
    Raises:
        DataError: see `require_names`, `require_every_teacher` and `with_teacher_prompts`.
    """
    for part, source in zip((splits.train, splits.held_out), splits.sources, strict=True):
        if column is not None:
            require_names(part, column, list(views), where=source)
        for name, view in views.items():
            if view.prompt_column is None:
                continue
            # a study evaluates every teacher on all held-out rows
            every = column is None or part is splits.held_out
            own = part if every else part.take([n for n, one in enumerate(part) if one.beside[str(column)] == name])
            view.as_read(own, where=source)
    if column is not None:
        require_every_teacher(splits.train, column, list(views), where=splits.sources[0])
