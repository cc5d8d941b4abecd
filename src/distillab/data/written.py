"""Align answers that the student wrote, by the bytes of its own tokens, with the teacher's reading of their text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillab.alignment.spans import SpanAligner
from distillab.alignment.tables import TEXT, UNUSED
from distillab.data.aligning import paired
from distillab.data.collation import IndexedRow
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.paired import PairedRow, PairedRows
from distillab.data.reading import Reader
from distillab.models.generation import continuation_text


@dataclass
class WrittenPairs:
    """The rows of a step in both tokenisations, of which the student has written some.

    The student's tokens stay as it wrote them. The teacher reads its own prompt, then their text, as a continuation. Of
    bytes that are no text, an incomplete character at the end is left out of it, others become U+FFFD; where the bytes
    of the two differ for this or another reason there is no span.

    Args:
        split: the training rows in the student's tokens. stored: the same with the teacher's.
        student, teacher: how both read rows; `max_tokens` of the teacher's encoder is what it reads at most.
        aligner: of their tokens.
    """

    split: EncodedSplit
    stored: PairedRows
    student: Reader
    teacher: Reader
    aligner: SpanAligner

    def __post_init__(self) -> None:
        self._places = {index: place for place, index in enumerate(self.stored.indexes.tolist())}

    def of(self, rows: Sequence[IndexedRow], written: Sequence[bool]) -> tuple[list[PairedRow], int]:
        """Return rows of a step in both tokenisations, in their order; and how many answers end within a character.

        Args:
            rows: with the student's answer where it was written.
            written: whether it was.
        """
        own = [self._readable(item) for item, new in zip(rows, written, strict=True) if new]
        read = [self.read(item) for item in own]
        pairs = [(item.index, item.row, row) for item, (row, _) in zip(own, read, strict=True)]
        made = iter(paired(pairs, aligner=self.aligner)[0])
        found = [
            next(made) if new else self.stored[self._places[item.index]]
            for item, new in zip(rows, written, strict=True)
        ]
        return found, sum(partial for _, partial in read)

    def read(self, item: IndexedRow) -> tuple[EncodedRow, bool]:
        """Return a row with an answer of the student as the teacher reads it, and whether it ends in a character."""
        row, example = item.row, self.split.examples[item.index]
        if example.kind == "text" and self.split.rows[item.index].prompt_length == len(self.split.rows[item.index]):
            # cut within the text that is given
            prompt = row.input_ids[: row.prompt_length].tolist()
            example = replace(example, prompt=continuation_text(self.student.tokenizer, [], prompt))
        text, partial = self._text(item)
        read = self.teacher.encoder.continued(
            example, text, tokens=row.prompt_length, by=self.student.encoder, ended=not row.truncated
        )
        return replace(read, truncated=read.truncated or (partial and row.truncated)), partial

    def _text(self, item: IndexedRow) -> tuple[str, bool]:
        """Return the text of the student's answer, and whether an incomplete character at its end is left out."""
        row = item.row
        data = self._bytes(row)
        if data.startswith(b" ") and self._adds_space(item):
            data = data[1:]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        return text, bool(decoder.getstate()[0])

    def _bytes(self, row: EncodedRow) -> bytes:
        return self.aligner.student.spell(row.input_ids[row.prompt_length :].astype(np.int64)).tobytes()

    def _adds_space(self, item: IndexedRow) -> bool:
        """Return whether the student's tokenizer writes a space before a text that begins here."""
        row = item.row
        if self.aligner.student.kinds[row.input_ids[row.prompt_length - 1]] == TEXT:
            return False
        encoder, example = self.student.encoder.with_max_tokens(None), self.split.examples[item.index]
        letter = encoder.continued(example, "a", tokens=row.prompt_length, by=encoder, ended=False)
        return self._bytes(letter).startswith(b" ")

    def _readable(self, item: IndexedRow) -> IndexedRow:
        """Return a row up to the first id that no token has, which a student can write."""
        row = item.row
        unused = np.flatnonzero(self.aligner.student.kinds[row.input_ids] == UNUSED)
        if not len(unused):
            return item
        end = int(unused[0])
        cut = replace(row, input_ids=row.input_ids[:end], answer_mask=row.answer_mask[:end], truncated=True)
        return replace(item, row=cut)
