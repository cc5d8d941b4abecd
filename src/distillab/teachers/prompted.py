"""A teacher that reads another prompt than the student. Its answer tokens are the student's.

Shape letters: B sequences, L positions, N scored positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ShapeError, TeacherError
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.scoring import at_scored, placed, predicting_positions
from distillab.teachers.protocol import SignalSource, TeacherIdentity
from distillab.teachers.routes import Routes, last_answer
from distillab.teachers.signals import SignalRequest, TeacherSignal
from distillab.teachers.stored.rows import Sample, samples


@dataclass(frozen=True, eq=False)
class PromptedTeacher:
    """A source on rows whose prompts are replaced: privileged information, as a hint or the answer.

    The scored tokens of the two rows are the same and in the same order, so the N scored positions of the teacher's
    batch are those of the student's. Activations are given at these alone, and are zero elsewhere.

    Args:
        source: reads the teacher's rows.
        rows: the teacher's row of each of the student's.
        collator: pads the teacher's rows.
    """

    source: SignalSource
    rows: Routes[EncodedRow]
    collator: Collator

    @property
    def identity(self) -> TeacherIdentity:
        """The source's."""
        return self.source.identity

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that nothing is requested at the prompt's positions, which the two models do not have in common.

        Args:
            packing: of the student's rows; has no effect, the teacher's are read one by one.
        Raises:
            TeacherError: something is; or as the source.
        """
        spec = request.activations
        if spec.maps or spec.projections or (spec.hidden and request.hidden_at != {"answer"}):
            raise TeacherError(
                "A term compares positions of the prompt, and the teacher reads another prompt.",
                fix="use terms on the answer's positions; see docs/several-teachers.md",
            )
        self.source.require(request, packing=False)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the source's signal on the teacher's rows, at the student's scored positions.

        Raises:
            TeacherError: a sample is none of the rows, nor a new answer to the prompt of one.
            ShapeError: a row of the teacher has another number of scored positions.
        """
        read = self.batch(batch)
        signal = self.source.signal(read, request)
        if signal.activations is None:
            return signal
        at_BL = predicting_positions(batch)
        hidden = {
            layer: placed(at_scored(states_BLD, read), at_BL) for layer, states_BLD in signal.activations.hidden.items()
        }
        return replace(signal, activations=Activations(hidden=hidden))

    def tokens(self, batch: TokenBatch) -> int:
        """Count the tokens that the teacher reads for a batch."""
        return sum(len(self._read(sample)) for sample in samples(batch))

    def batch(self, batch: TokenBatch) -> TokenBatch:
        """Return the teacher's rows of a batch, one a sequence, in the order of the samples."""
        return self.collator([IndexedRow(sample.row, self._read(sample)) for sample in samples(batch)])

    def _read(self, sample: Sample) -> EncodedRow:
        row = self.rows.of_row(sample)
        if row is None:
            prompt, start = self.rows.of_prompt(sample), last_answer(sample)
            given = prompt.input_ids[: prompt.prompt_length]
            row = EncodedRow(
                key=prompt.key,
                input_ids=np.concatenate([given, sample.input_ids[start:].astype(np.int32)]),
                answer_mask=np.concatenate([np.zeros(len(given), np.bool_), sample.answer_mask[start:]]),
                prompt_length=len(given),
            )
        if row.answer_mask.sum() != sample.answer_mask.sum():
            raise ShapeError(
                "The teacher's row has another number of scored tokens than the student's.",
                where=f"row with key {row.key}",
                facts=[f"student {int(sample.answer_mask.sum())}", f"teacher {int(row.answer_mask.sum())}"],
            )
        return row
