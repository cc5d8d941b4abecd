"""Encode examples as one sequence [prompt, answer, eos] with a mask of the supervised tokens.

`answer_mask` marks the tokens that are *predicted*: the trainer scores logits at position t against the id
at t + 1 if that is marked. The first token of a sequence has no context and is never marked.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from distillab.data.border import BorderEncoder, Piece
from distillab.data.examples import Example
from distillab.data.lost_text import LostText
from distillab.data.rendering import RenderedSegment, Template
from distillab.data.supervised_text import SupervisedText
from distillab.errors import DataError
from distillab.pairing.token_bytes import TokenMeaning, token_meanings
from distillab.progress import track
from distillab.records import EncodingCounts

DropReason = Literal["empty_answer", "no_room"]


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One sequence.

    Attributes:
        key: `Example.key`.
        input_ids: (L,) int32.
        answer_mask: (L,) bool, True where the token is supervised; never at 0.
        prompt_length: tokens before the last answer that has any token left.
        truncated: the sequence was cut at max_tokens.
        special_in_text: a special token is spelled in the row's text (and encoded as text).
        removed: characters of the data's answers that the template drops.
        added: characters that the template adds to answers, without special tokens.
        lost: characters of the row's text for which the tokenizer has no token.
    """

    key: str
    input_ids: npt.NDArray[np.int32]
    answer_mask: npt.NDArray[np.bool_]
    prompt_length: int
    truncated: bool = False
    special_in_text: bool = False
    removed: int = 0
    added: int = 0
    lost: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Dropped:
    """A row that cannot be trained on: an answer is empty or dropped by the template, or no token of it fits."""

    key: str
    reason: DropReason


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The kept rows, the example of each (same order), and the counts of all rows."""

    rows: list[EncodedRow]
    examples: list[Example]
    counts: EncodingCounts

    def __len__(self) -> int:
        return len(self.rows)


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
        self._begin = [] if template.complete else begin_ids(tokenizer)
        end = template.end_of_turn
        self._end_of_turn_id = None if end is None else _id_of(tokenizer, end)
        self._pad_id = tokenizer.pad_token_id

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
        ends = {self.eos_id} if self._end_of_turn_id is None else {self.eos_id, self._end_of_turn_id}
        return tuple(sorted(ends))

    def encode_prompt(self, example: Example) -> list[int]:
        """Return the ids that generation starts from: those before the final answer in `encode`.

        A teacher's generation prompt can also open the answer (`<think>`).
        """
        segments = self.template.prompt_segments(example)
        ids = [
            part
            for piece, segment in zip(self._pieces(segments), segments, strict=True)
            for part in self._closed(piece, segment)
        ]
        return self._begun(ids)

    def encode(self, example: Example) -> EncodedRow | Dropped:
        """Encode one example, or return why it is dropped.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        if not all(answer.strip() for answer in example.answers):
            return Dropped(example.key, "empty_answer")
        segments = self.template.render(example)
        answers = [segment.supervised_text for segment in segments if segment.ends_answer]
        if any(answer.removed and not answer.text.strip() for answer in answers):
            return Dropped(example.key, "empty_answer")
        whole, mask, starts = self._sequence(segments)
        kept_mask = np.asarray(mask[: self.max_tokens], dtype=np.bool_)
        if not kept_mask.any():
            return Dropped(example.key, "no_room")
        room = len(kept_mask)
        begun = [start for start in starts if start < room]
        return EncodedRow(
            key=example.key,
            input_ids=np.asarray(whole[:room], dtype=np.int32),
            answer_mask=kept_mask,
            prompt_length=begun[-1] if begun else room,
            truncated=len(whole) > room,
            special_in_text=any(self._borders.added.special_strings(text) for text in example.texts),
            removed=sum(answer.removed for answer in answers),
            added=sum(answer.added for answer in answers),
            lost=sum(self._lost.characters(text) for text in example.texts),
        )

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
        number = by._sequence(by.template.render(example))[2].index(tokens) if len(answers) > 1 else 0
        end = (self.template.end_of_turn or "") if ended else ""
        written = RenderedSegment(text + end, supervised=True, ends_answer=True, literal=((0, len(text)),))
        ids, _, starts = self._sequence([*segments[: answers[number]], written], ended=ended)
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

        These are the rendered answers without the tokens that end them. If no begin token is added, the first token
        does not count either, because nothing predicts it.
        """
        segments = self.template.render(example)
        text_bytes = sum(len(self._open_text(segment).encode()) for segment in segments if segment.supervised)
        nothing_before = not self._begin and segments[0].supervised
        return text_bytes - (self._first_token_bytes(segments[0].text) if nothing_before else 0)

    def _open_text(self, segment: RenderedSegment) -> str:
        """Return a segment's text without the token that ends the answer, if the template writes it."""
        found = list(self._borders.added.find(segment.text, literal=segment.literal))
        closed = found and found[-1].id in self.stop_ids and found[-1].end == len(segment.text)
        return segment.text[: found[-1].start] if closed else segment.text

    def _first_token_bytes(self, text: str) -> int:
        first = self._meanings[self._borders.encode([Piece(text, ((0, len(text)),))])[0][0]]
        if first.kind == "special":  # the bytes of an unknown token are not known
            places = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            return len(text[: places[0][1]].encode())
        # a prefix space of the tokenizer is not part of the text
        return len(first.data if text[0].isspace() else first.data.removeprefix(b" "))

    @cached_property
    def _meanings(self) -> list[TokenMeaning]:
        return token_meanings(self._tokenizer)

    def encode_all(self, examples: Sequence[Example], *, source: str) -> EncodedSplit:
        """Encode a split and count kept, dropped and truncated rows.

        Args:
            examples: at least one.
            source: name of the split, for the counts and messages.
        Raises:
            DataError: no row is left.
        """
        rows: list[EncodedRow] = []
        kept: list[Example] = []
        dropped: dict[DropReason, int] = {"empty_answer": 0, "no_room": 0}
        for example in track(examples, f"encoding {source}", total=len(examples), unit="rows"):
            encoded = self.encode(example)
            if isinstance(encoded, Dropped):
                dropped[encoded.reason] += 1
            else:
                rows.append(encoded)
                kept.append(example)
        counts = EncodingCounts(
            source=source,
            rows=len(examples),
            kept=len(rows),
            dropped_empty_answer=dropped["empty_answer"],
            dropped_no_room=dropped["no_room"],
            truncated=sum(row.truncated for row in rows),
            special_in_text=sum(row.special_in_text for row in rows),
            rows_cut_by_template=sum(row.removed > 0 for row in rows),
            characters_cut_by_template=sum(row.removed for row in rows),
            rows_added_to_by_template=sum(row.added > 0 for row in rows),
            characters_added_by_template=sum(row.added for row in rows),
            prompts=len({example.prompt_hash for example in kept}),
            rows_with_lost_text=sum(row.lost > 0 for row in rows),
            characters_lost=sum(row.lost for row in rows),
            tokens=sum(len(row) for row in rows),
            supervised_tokens=sum(int(row.answer_mask.sum()) for row in rows),
        )
        if not rows:
            raise _nothing_left(counts, self.max_tokens)
        return EncodedSplit(rows, kept, counts)

    def _sequence(
        self, segments: Sequence[RenderedSegment], *, ended: bool = True
    ) -> tuple[list[int], list[bool], list[int]]:
        """Return the ids of segments with begin tokens, which of them are supervised, and where each answer begins.

        Args:
            ended: False: the last segment is an answer without an end.
        """
        ids: list[int] = []
        mask: list[bool] = []
        starts: list[int] = []
        for number, (piece, segment) in enumerate(zip(self._pieces(segments), segments, strict=True), start=1):
            if segment.ends_answer:
                starts.append(len(ids))
            if ended or number < len(segments):
                piece = self._closed(piece, segment)
            ids.extend(piece)
            mask.extend([segment.supervised] * len(piece))
        whole = self._begun(ids)
        begin = len(whole) - len(ids)
        mask = [False] * begin + mask
        mask[:1] = [False] * len(mask[:1])
        return whole, mask, [begin + start for start in starts]

    def _pieces(self, segments: Sequence[RenderedSegment]) -> list[list[int]]:
        return self._borders.encode([Piece(segment.text, segment.literal) for segment in segments])

    def _closed(self, ids: list[int], segment: RenderedSegment) -> list[int]:
        closes = (self.eos_id, self._end_of_turn_id)
        # Text of the data never encodes to these ids, so the template wrote a last id among them.
        return ids if not segment.ends_answer or (ids and ids[-1] in closes) else [*ids, self.eos_id]

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self._begin)] == self._begin else self._begin + ids


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


def _nothing_left(counts: EncodingCounts, max_tokens: int) -> DataError:
    if not counts.rows:
        return DataError("The split has no rows.", where=counts.source)
    facts = [f"{counts.rows} rows, {counts.dropped_empty_answer} dropped for an empty answer"]
    facts.append(f"{counts.dropped_no_room} dropped because the prompt alone fills max_tokens = {max_tokens}")
    fix = "raise max_tokens" if counts.dropped_no_room else "check that the answer column is the right one"
    return DataError("No supervised token is left.", where=counts.source, facts=facts, fix=fix)
