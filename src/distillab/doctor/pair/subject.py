"""What is known of a pair before it is examined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.data.collation import IndexedRow
from distillab.data.encoding import Dropped, EncodedRow
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.doctor.checks import Skipped
from distillab.evaluation.likelihood import RowScores, score_rows
from distillab.models.inputs import model_inputs
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import logits_width
from distillab.records import TokenizerContract

# of one pass over the rows: some ten seconds on two cores; a GPU does a hundred times as much
_OPERATIONS = 4e11
_MIN_TOKENS, _MAX_TOKENS = 256, 16_384
_BATCH = 8


@dataclass(frozen=True, eq=False)
class PairSubject:
    """A teacher and a student, and rows of the data on which they meet.

    Attributes:
        contract: what their tokenizers have in common.
        teacher, student: how each of them reads rows; the student's is the one that training uses.
        teacher_model: as training would run it, in its current mode and dtype; None: a cache replaces it,
            or there is nothing to load. What needs it is not examined then.
        student_model: the student before training; None: nothing to load.
        student_is_random: it has not learned anything yet.
        examples: rows; the first that are needed are taken. May be empty.
        compares_by_index: some term compares by id, so that unrelated ids are an error.
    """

    contract: TokenizerContract
    teacher: Reader
    student: Reader
    examples: Sequence[Example]
    teacher_model: PreTrainedModel | None = None
    student_model: PreTrainedModel | None = None
    student_is_random: bool = False
    compares_by_index: bool = False

    @property
    def same_ids(self) -> bool:
        """Whether equal ids mean the same."""
        return self.contract.verdict != "different"

    @property
    def input_reader(self) -> Reader:
        """The tokenizer of the teacher's input: the student's where the ids are the same."""
        return self.student if self.same_ids else self.teacher

    @property
    def running_teacher(self) -> PreTrainedModel:
        """The teacher, for a check that needs it: the rest of the check is skipped where it cannot run."""
        if self.teacher_model is None or self.lacking_teacher is not None:
            raise Skipped(self.lacking_teacher)
        return self.teacher_model

    @property
    def lacking_teacher(self) -> str | None:
        """Why the teacher cannot run; None where it can."""
        if self.teacher_model is None:
            return "no weights of the teacher were loaded"
        return None if self.examples else "there are no rows for the teacher"


@dataclass(frozen=True, eq=False)
class ReadRows:
    """Rows as one tokenizer reads them.

    Attributes:
        rows, examples: those that are read, in the same order.
        unreadable: rows left out because they hold an id for which the model has no embedding.
    """

    rows: tuple[EncodedRow, ...]
    examples: tuple[Example, ...]
    unreadable: int

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return sum(int(row.answer_mask.sum()) for row in self.rows)


def contract_of(teacher: Reader, student: Reader, examples: Sequence[Example], source: str) -> TokenizerContract:
    """Return what two tokenizers have in common, on the texts of these rows too."""
    return compare_tokenizers(
        teacher.loaded,
        student.loaded,
        teacher_width=logits_width(teacher.loaded.path),
        student_width=logits_width(student.loaded.path),
        texts=[text for example in examples for text in example.texts if text],
        source=source,
    )


def device_of(model: PreTrainedModel) -> torch.device:
    """Return the device of the model's weights."""
    return next(model.parameters()).device


def affordable_tokens(*models: PreTrainedModel | None) -> int:
    """Return the number of tokens that all of these models read in some seconds."""
    most = _MAX_TOKENS
    for model in models:
        if model is not None:
            speed = 1 if device_of(model).type == "cpu" else 100
            most = min(most, int(speed * _OPERATIONS / (2 * max(1, model.num_parameters()))))
    return max(most, _MIN_TOKENS)


def read_rows(
    reader: Reader, examples: Sequence[Example], *models: PreTrainedModel | None, most_tokens: int
) -> ReadRows:
    """Return the first rows that can be read, up to a number of tokens; at least one if one can be.

    Args:
        models: the models that will run; rows with ids that one of them has no embedding for are left out.
    """
    embeddings = [cast(Tensor, model.get_input_embeddings().weight) for model in models if model is not None]
    known = min((len(weight) for weight in embeddings), default=None)
    rows: list[EncodedRow] = []
    kept: list[Example] = []
    unreadable = tokens = 0
    for example in examples:
        row = reader.encoder.encode(example)
        if isinstance(row, Dropped):
            continue
        if known is not None and int(row.input_ids.max()) >= known:
            unreadable += 1
            continue
        tokens += len(row)
        if rows and tokens > most_tokens:
            break
        rows.append(row)
        kept.append(example)
    return ReadRows(tuple(rows), tuple(kept), unreadable)


def readable_rows(reader: Reader, examples: Sequence[Example], model: PreTrainedModel, *, most_tokens: int) -> ReadRows:
    """Return what `read_rows` does, for a check that needs a row: the rest of it is skipped where none can be read."""
    read = read_rows(reader, examples, model, most_tokens=most_tokens)
    if not read.rows:
        raise Skipped("no row can be read")
    return read


def logits_of(model: PreTrainedModel, reader: Reader, row: EncodedRow) -> Tensor:
    """Return (L, W) raw logits in the model's dtype, on its device; without gradients, in the model's current mode."""
    batch = reader.collator()([IndexedRow(0, row)])
    with torch.no_grad():
        output = model(**model_inputs(batch, device_of(model), model=model))
    logits: Tensor = output.logits[0]
    return logits


def scored(row: EncodedRow) -> Tensor:
    """Return (n,) positions of the scored tokens; the logits one position before predict them."""
    return torch.from_numpy(row.answer_mask).nonzero()[:, 0]


def scores_of(model: PreTrainedModel, reader: Reader, rows: Sequence[EncodedRow]) -> RowScores:
    """Return the nats of the rows' answers by a model in eval mode."""
    with evaluating(model):
        return score_rows(model, rows, collator=reader.collator(), batch_size=_BATCH, stop_ids=reader.encoder.stop_ids)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Set eval mode for a while; every module returns to its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
