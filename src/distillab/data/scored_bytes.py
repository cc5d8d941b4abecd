"""Count the UTF-8 bytes of the text whose tokens are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerFast

from distillab.data.border import BorderEncoder, Piece
from distillab.data.rendering import RenderedSegment
from distillab.pairing.token_bytes import TokenMeaning, token_meanings


class ScoredBytes:
    """Count the bytes of rendered answers without the tokens that end them.

    Args:
        tokenizer: a fast tokenizer.
        borders: of the same tokenizer.
        stop_ids: of the tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, borders: BorderEncoder, stop_ids: Sequence[int]) -> None:
        self._tokenizer, self._borders, self._stop_ids = tokenizer, borders, stop_ids

    def of(self, segments: Sequence[RenderedSegment], *, begun: bool) -> int:
        """Return the bytes of a rendered example that is not truncated.

        Args:
            begun: a begin token is added. If not, the first token does not count, because nothing predicts it.
        """
        text_bytes = sum(len(self._open_text(segment).encode()) for segment in segments if segment.supervised)
        nothing_before = not begun and segments[0].supervised
        return text_bytes - (self._first_token_bytes(segments[0].text) if nothing_before else 0)

    def _open_text(self, segment: RenderedSegment) -> str:
        """Return a segment's text without the token that ends the answer, if the template writes it."""
        found = list(self._borders.added.find(segment.text, literal=segment.literal))
        closed = found and found[-1].id in self._stop_ids and found[-1].end == len(segment.text)
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
