"""Loads a pair from two folders and a data file, as far as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from distillab.config.data import SourceConfig
from distillab.data.examples import Example, Kind
from distillab.data.reading import Reader, load_reader
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.errors import ConfigError
from distillab.models.loading import context_length, load_config, load_model, model_name, pick_device
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import find_file, logits_width
from distillab.paths import is_gguf, is_local, local_path

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MOST_ROWS = 2_000
_PROMPT_SHARE = 0.25


def load_pair(
    teacher: str,
    student: str,
    data: str | None,
    *,
    rows: int,
    template: str,
    max_tokens: int,
    dtype: str,
    device: str,
    compares_by_index: bool,
) -> PairSubject:
    """Load a subject from two folders; a folder without weights gives no model. See `audit_pair` for the arguments."""
    examples = load_examples(data, rows) if data is not None else ()
    lengths = [length for path in (teacher, student) if (length := _context(path)) is not None]
    most = min([max_tokens, *lengths])
    # a text without rows is judged by its tokenizers alone, and has no template
    kind: Kind = examples[0].kind if examples else "text"
    form = template if examples else "auto"
    readers = [
        _named(
            load_reader(
                path, revision=None, template=form, kind=kind, max_tokens=most, requires_generation_prompt=learns
            ),
            path,
        )
        for path, learns in ((teacher, False), (student, True))
    ]
    return PairSubject(
        contract=compare_tokenizers(
            readers[0].loaded,
            readers[1].loaded,
            teacher_width=logits_width(teacher),
            student_width=logits_width(student),
            texts=[text for example in examples for text in example.texts],
            source="" if data is None else Path(data).name,
        ),
        teacher=readers[0],
        student=readers[1],
        teacher_model=_model(teacher, examples, "teacher", dtype=dtype, device=device),
        student_model=_model(student, examples, "student", dtype=dtype, device=device),
        student_is_random=False,
        examples=examples,
        compares_by_index=compares_by_index,
    )


def load_examples(data: str, rows: int) -> tuple[Example, ...]:
    """Load the first rows of a file.

    Raises:
        ConfigError: the number of rows cannot be.
        DataError: the file is not readable, or its rows are of no known shape.
    """
    if not 1 <= rows <= _MOST_ROWS:
        raise ConfigError("The number of rows is out of range.", facts=[f"rows: {rows}"], fix=f"1 to {_MOST_ROWS:,}")
    read = read_rows(SourceConfig(path=data, limit=rows))
    return tuple(to_examples(read, columns=None, prompt_share=_PROMPT_SHARE))


def _named(reader: Reader, path: str) -> Reader:
    # a run's folder is called student, whatever model it holds
    return replace(reader, loaded=replace(reader.loaded, name=model_name(path)))


def _context(path: str) -> int | None:
    """Return the positions of the model; None if there is no model, or its config does not give them."""
    if not is_gguf(path) and (find_file(path, "config.json", None) is None or not _is_model(path)):
        return None
    return context_length(load_config(path, revision=None))


def _is_model(path: str) -> bool:
    """Return whether there are weights; a hub id counts as a model."""
    return not is_local(path) or is_gguf(path) or any(any(local_path(path).glob(pattern)) for pattern in _WEIGHTS)


def _model(path: str, examples: Sequence[Example], role: str, *, dtype: str, device: str) -> PreTrainedModel | None:
    if not examples or not _is_model(path):
        return None
    return load_model(path, dtype=dtype, device=pick_device(device), revision=None, role=role)
