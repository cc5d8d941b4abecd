"""Encode examples as one sequence [prompt, answer, eos] with a mask of the supervised tokens.

`answer_mask` marks the tokens that are *predicted*: the trainer scores logits at position t against the id
at t + 1 if that is marked. The first token of a sequence has no context and is never marked.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from distillab.data.border import BorderEncoder, Ids, Piece
from distillab.data.encoded_rows import KEYS, PLACES, TOKENS, EncodedRow, EncodedRows, EncodedSplit, RowWriter
from distillab.data.example_table import ExampleTable
from distillab.data.examples import Example
from distillab.data.lost_text import LostText
from distillab.data.rendering import RenderedSegment, Template
from distillab.data.scored_bytes import ScoredBytes
from distillab.data.sequences import Joined, flat_rows
from distillab.data.store import fingerprint_of, stored
from distillab.data.supervised_text import SupervisedText
from distillab.errors import DataError
from distillab.files import read_json, write_json
from distillab.progress import Progress
from distillab.records import EncodingCounts

__all__ = ["Dropped", "EncodedRow", "EncodedSplit", "Encoder", "begin_ids"]

DropReason = Literal["empty_answer", "no_room"]
_VERSION = 1  # of the encoder: another number where the rows of the same data differ
_BATCH = 1_024
_STORED_FROM = 512  # rows; fewer are encoded in less time than they are found
_DROPPED = "dropped.json"


@dataclass(frozen=True)
class Dropped:
    """A row that cannot be trained on: an answer is empty or dropped by the template, or no token of it fits."""

    key: str
    reason: DropReason


class _Rendered(NamedTuple):
    """An example that has answers, as text, with its place in the batch."""

    place: int
    example: Example
    segments: Sequence[RenderedSegment]


class Encoder:
    """Encode examples of one kind with one tokenizer.

    A begin token comes first if the tokenizer adds one to a text, never twice; a chat template is the whole text. EOS
    ends every answer, supervised, unless the template ends it with its own special token.

    Args:
        tokenizer: a fast tokenizer.
        template: from `resolve_template`.
        max_tokens: longest sequence; longer ones are truncated and lose their EOS.
    Raises:
        DataError: the tokenizer has no EOS, or is slow (Python).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: Template, max_tokens: int) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError(
                "The tokenizer has no EOS token, so a model cannot learn where an answer ends.",
                where=str(tokenizer.name_or_path),
                fix="set eos_token in its tokenizer_config.json",
            )
        self.template = template
        self.max_tokens = max_tokens
        self.eos_id: int = tokenizer.eos_token_id
        self._tokenizer = tokenizer
        self._borders = BorderEncoder(tokenizer)
        self._lost = LostText(tokenizer)
        self._ends = {self.eos_id, *(_id_of(tokenizer, end) for end in template.ends)}
        self._pad_id = tokenizer.pad_token_id
        self._scored_bytes = ScoredBytes(tokenizer, self._borders, self.stop_ids)

    def with_max_tokens(self, max_tokens: int | None) -> Encoder:
        """Return the same with another limit; None: without one."""
        other = copy.copy(self)
        other.max_tokens = sys.maxsize if max_tokens is None else max_tokens
        return other

    @property
    def pad_id(self) -> int:
        """Return the padding id, or EOS if there is none. Masks are made from lengths, so both are right."""
        return self.eos_id if self._pad_id is None else int(self._pad_id)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the ids that end a generated answer: EOS and the template's end-of-turn token."""
        return tuple(sorted(self._ends))

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the ids that generation starts from: those before the final answer in `encode`.

        A teacher's generation prompt can also open the answer (`<think>`).
        """
        return self.encode_prompts([example])[0]

    def encode_prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        """Return `encode_prompt` of each example."""
        segments = [self.template.prompt_segments(example) for example in examples]
        found = zip(examples, segments, self._pieces(segments), strict=True)
        return [[*chain.from_iterable(self._joined(*one).parts)] for one in found]

    def prompt_lengths(self, rows: EncodedRows, examples: Sequence[Example]) -> npt.NDArray[np.int64]:
        """Return (N,) the tokens of each prompt: of `encode_prompt`.

        Args:
            rows: encoded by this encoder; of a truncated one it is not more than the row has.
            examples: of each.
        """
        if self.template.keeps_text:
            return rows.columns["prompt_length"].astype(np.int64)
        batches = (examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH))
        return np.array([len(ids) for batch in batches for ids in self.encode_prompts(batch)], dtype=np.int64)

    def encode(self, example: Example) -> EncodedRow | Dropped:
        """Encode one example, or return why it is dropped.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        return self.encode_some([example])[0]

    def encode_some(self, examples: Sequence[Example]) -> list[EncodedRow | Dropped]:
        """Return `encode` of each example."""
        with RowWriter() as writer:
            found = self._write(writer, examples, 0)
        rows = writer.rows()
        kept = dict(zip(rows.columns[PLACES].tolist(), rows, strict=True))
        return [
            one if isinstance(one, Dropped) else kept.get(place, Dropped(one.example.key, "no_room"))
            for place, one in enumerate(found)
        ]

    def _write(self, writer: RowWriter, examples: Sequence[Example], start: int) -> list[_Rendered | Dropped]:
        """Append the rows that are kept of examples, the first of which has the place `start`; return how all look."""
        found = [self._rendered(place, example) for place, example in enumerate(examples, start=start)]
        rows = [row for row in found if isinstance(row, _Rendered)]
        if rows:
            self._append(writer, rows, self._pieces([row.segments for row in rows]))
        return found

    def _rendered(self, place: int, example: Example) -> _Rendered | Dropped:
        if not all(answer.strip() for answer in example.answers):
            return Dropped(example.key, "empty_answer")
        segments = self.template.render(example)
        answers = [segment.rewritten for segment in segments if segment.rewritten is not None]
        if any(answer.removed and not answer.text.strip() for answer in answers):
            return Dropped(example.key, "empty_answer")
        return _Rendered(place, example, segments)

    def _append(self, writer: RowWriter, rows: Sequence[_Rendered], pieces: Sequence[list[Ids]]) -> None:
        """Cut rows at `max_tokens` and append those that have a supervised token.

        Args:
            pieces: the ids of each segment of each row.
        """
        joined = [self._joined(row.example, row.segments, ids) for row, ids in zip(rows, pieces, strict=True)]
        found = flat_rows(joined, self.max_tokens)
        kept = [rows[at] for at in found.kept]
        keys = [row.example.key.encode() for row in kept]
        answers = [[part.rewritten for part in row.segments if part.rewritten is not None] for row in kept]
        spelled = self._borders.added.special_strings
        columns: dict[str, Any] = {
            TOKENS: found.input_ids,
            KEYS: np.frombuffer(b"".join(keys), dtype=np.uint8),
            PLACES: [row.place for row in kept],
            "tokens": found.tokens,
            "key_bytes": [len(key) for key in keys],
            "prompt_length": found.prompt_length,
            "truncated": found.truncated,
            "special_in_text": [any(spelled(text) for text in row.example.texts) for row in kept],
            "removed": [sum(answer.removed for answer in each) for each in answers],
            "added": [sum(answer.added for answer in each) for each in answers],
            "lost": self._lost.of_rows([row.example.texts for row in kept]),
        }
        writer.append_rows(columns, found.answer_mask)

    def continued(self, example: Example, text: str, *, tokens: int, by: Encoder, ended: bool) -> EncodedRow:
        """Encode an example up to one of its answers, with a text in place of that answer, which alone is supervised.

        Args:
            text: read as a continuation; special tokens in it are plain text.
            tokens: `prompt_length` of the example's row by another encoder: where the answer begins there.
            by: that encoder.
            ended: the token that ends an answer follows the text.
        """
        segments = self.template.render(example)
        answers = [place for place, segment in enumerate(segments) if segment.ends_answer]
        # of a conversation that was cut, the last answer that was begun
        number = by._sequence(example, by.template.render(example)).starts.index(tokens) if len(answers) > 1 else 0
        end = (self.template.of(example).end_of_turn or "") if ended else ""
        written = RenderedSegment(text + end, supervised=True, ends_answer=True, literal=((0, len(text)),))
        parts, _, starts = self._sequence(example, [*segments[: answers[number]], written], ended=ended)
        ids = [*chain.from_iterable(parts)]
        room = min(len(ids), self.max_tokens)
        return EncodedRow(
            key=example.key,
            input_ids=np.asarray(ids[:room], dtype=np.int32),
            answer_mask=np.arange(room) >= max(1, starts[-1]),
            prompt_length=min(starts[-1], room),
            truncated=len(ids) > room,
        )

    def supervised_texts(self, example: Example) -> tuple[SupervisedText, ...]:
        """Return the supervised text, one entry per segment; the last is the final answer.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        return tuple(segment.supervised_text for segment in self.template.render(example) if segment.supervised)

    def scored_bytes(self, example: Example) -> int:
        """Return the UTF-8 bytes of the text whose tokens are predicted, for a row that is not truncated.

        See `ScoredBytes`.
        """
        return self._scored_bytes.of(self.template.render(example), begun=bool(self._begin_of(example)))

    @property
    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides how an example is encoded."""
        return fingerprint_of(_VERSION, self._tokenizer_sha256, *self.template.identity, self.max_tokens)

    @cached_property
    def _tokenizer_sha256(self) -> str:
        tokenizer = self._tokenizer
        facts = [
            version("tokenizers"),
            tokenizer.special_tokens_map,
            self.eos_id,
            [] if self.template.complete else self._begin,
        ]
        text = tokenizer.backend_tokenizer.to_str() + repr(facts) + repr(tokenizer.added_tokens_decoder)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode_all(self, examples: Sequence[Example], *, source: str) -> EncodedSplit:
        """Encode a split and count kept, dropped and truncated rows.

        A table's rows are stored, and found again by the same encoder; a list's are encoded anew.

        Args:
            examples: at least one.
            source: name of the split, for the counts and messages.
        Raises:
            DataError: no row is left.
        """
        if not isinstance(examples, ExampleTable) or len(examples) < _STORED_FROM:
            with RowWriter() as writer:
                dropped = self._encode_into(writer, examples, source)
            return self._split(writer.rows(), dropped, examples, source)

        def fill(folder: Path) -> None:
            with RowWriter(folder) as writer:
                write_json(folder / _DROPPED, self._encode_into(writer, examples, source))

        folder = stored("tokens", fingerprint_of(self.fingerprint, examples.rows_fingerprint), fill)
        return self._split(EncodedRows.opened(folder), read_json(folder / _DROPPED), examples, source)

    def encode_block(self, examples: Sequence[Example], *, source: str) -> EncodedSplit:
        """Encode some examples as `encode_all` does, of which none need be left; nothing is shown or stored."""
        with RowWriter() as writer:
            found = self._write(writer, examples, 0)
        empty = sum(isinstance(one, Dropped) for one in found)
        dropped = {"empty_answer": empty, "no_room": len(found) - empty - writer.count}
        rows = writer.rows()
        kept = [examples[place] for place in rows.columns[PLACES]]
        return EncodedSplit(rows, kept, rows.counts(source, dropped, prompts=_prompts(kept)))

    def _split(
        self, rows: EncodedRows, dropped: Mapping[str, int], examples: Sequence[Example], source: str
    ) -> EncodedSplit:
        places = rows.columns[PLACES]
        if isinstance(examples, ExampleTable):
            kept: Sequence[Example] = examples if len(rows) == len(examples) else examples.take(places)
        else:
            kept = [examples[place] for place in places]
        counts = rows.counts(source, dropped, prompts=_prompts(kept))
        if not len(rows):
            raise _nothing_left(counts, self.max_tokens)
        return EncodedSplit(rows, kept, counts)

    def _encode_into(self, writer: RowWriter, examples: Sequence[Example], source: str) -> Counter[str]:
        """Append the rows that are kept; return how many are not."""
        dropped: Counter[str] = Counter()
        with Progress(f"encoding {source}", total=len(examples), unit="rows") as progress:
            for start in range(0, len(examples), _BATCH):
                found = self._write(writer, examples[start : start + _BATCH], start)
                dropped["empty_answer"] += sum(isinstance(one, Dropped) for one in found)
                progress.advance(len(found))
        dropped["no_room"] = len(examples) - dropped["empty_answer"] - writer.count
        return dropped

    def _sequence(self, example: Example, segments: Sequence[RenderedSegment], *, ended: bool = True) -> Joined:
        """Return the ids of segments with begin and end tokens.

        Args:
            ended: False: the last segment is an answer without an end.
        """
        return self._joined(example, segments, self._pieces([segments])[0], ended=ended)

    def _joined(
        self,
        example: Example,
        segments: Sequence[RenderedSegment],
        pieces: Sequence[Ids],
        *,
        ended: bool = True,
    ) -> Joined:
        parts = [self._closed(piece, segment) for piece, segment in zip(pieces, segments, strict=True)]
        if not ended:
            parts[-1] = pieces[-1]
        begin = self._begin_of(example)
        # nothing where the text has it
        begun = [*islice(chain.from_iterable(parts), len(begin))] == begin
        parts = [array("i", [] if begun else begin), *parts]
        ends = list(accumulate(map(len, parts)))
        starts = [start for start, segment in zip(ends, segments, strict=False) if segment.ends_answer]
        return Joined(parts, [False, *(segment.supervised for segment in segments)], starts)

    def _pieces(self, rows: Sequence[Sequence[RenderedSegment]]) -> list[list[Ids]]:
        """Return the ids of each segment of each row."""
        return self._borders.encode_batch([[Piece(part.text, part.literal) for part in row] for row in rows])

    def _closed(self, ids: Ids, segment: RenderedSegment) -> Ids:
        # Text of the data never encodes to these ids, so the template wrote a last id among them.
        return ids if not segment.ends_answer or (ids and ids[-1] in self._ends) else ids + array("i", [self.eos_id])

    @cached_property
    def _begin(self) -> list[int]:
        return begin_ids(self._tokenizer)

    def _begin_of(self, example: Example) -> list[int]:
        return [] if self.template.of(example).complete else self._begin


def _id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int):
        raise DataError(f"The token {token!r} has no single id.", where=str(tokenizer.name_or_path))
    return number


def begin_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids that the tokenizer adds before a text (BOS, or nothing for GPT-2)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return [int(number) for number in full[:start]]
    raise DataError(
        "The tokenizer encodes a text differently when it adds special tokens.",
        where=str(tokenizer.name_or_path),
        facts=[f"without: {bare}", f"with:    {full}"],
    )


def _prompts(examples: Sequence[Example]) -> int:
    if isinstance(examples, ExampleTable):
        return len(np.unique(examples.prompt_hashes))
    return len({example.prompt_hash for example in examples})


def _nothing_left(counts: EncodingCounts, max_tokens: int) -> DataError:
    if not counts.rows:
        return DataError("The split has no rows.", where=counts.source)
    facts = [f"{counts.rows} rows, {counts.dropped_empty_answer} dropped for an empty answer"]
    facts.append(f"{counts.dropped_no_room} dropped because the prompt alone fills max_tokens = {max_tokens}")
    fix = "raise max_tokens" if counts.dropped_no_room else "check that the answer column is the right one"
    return DataError("No supervised token is left.", where=counts.source, facts=facts, fix=fix)
