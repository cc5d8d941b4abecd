"""Encodes pieces of one text so that no token crosses the border between two pieces.

The first piece is encoded as the tokenizer encodes any text. A later piece is encoded as a
*continuation*: as what follows, not as a new text. Encoding it alone would insert the space that
SentencePiece puts before a text ("▁Yes" where the text says "\\nYes"); encoding both at once and
cutting at the prompt's length shifts the cut wherever a token spans the border.

A tokenizer first cuts the text at its added tokens and treats each stretch between them by itself.
So only the stretch in which a border lies has to be continued. With N the tokenizer's normaliser and
`before` the part of the stretch that stands before the border, the piece becomes N(before + piece)
without its beginning N(before), encoded with no normaliser and no prefix. Where N joins characters
over the border (a combining accent after its letter), the piece is normalised alone.

Known limit: WordPiece marks the inside of a word by "##". A piece that begins inside a word is
encoded as if it began one, for the vocabulary has no other way to begin a piece.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.normalizers import Normalizer
from transformers import PreTrainedTokenizerFast

from distillab.data.special import AddedTokens, Range
from distillab.errors import DataError

# Pre-tokenizers that throw the spaces away: what follows a space is marked in another way (▁ or ##).
_DROP_SPACES = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}


class Piece(NamedTuple):
    """A part of a text. In the `literal` ranges special tokens are ordinary text."""

    text: str
    literal: tuple[Range, ...] = ()


class BorderEncoder:
    """Encodes pieces of one text, one list of ids a piece.

    Special tokens outside of the literal ranges become their ids; inside they are spelled out.

    Args:
        tokenizer: any tokenizer that runs on the `tokenizers` library.
    Raises:
        DataError: a tokenizer written in Python.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise DataError(
                "Texts can be cut exactly only with a tokenizer of the tokenizers library (a fast one).",
                facts=[f"got: {type(tokenizer).__name__}"],
                fix="use a folder that has tokenizer.json",
            )
        self.added = AddedTokens(tokenizer)
        layout = json.loads(backend.to_str())
        layout.update(truncation=None, padding=None, post_processor=None)
        splitter = layout["pre_tokenizer"]
        never = _edited(splitter, {"always": "never", "first": "never"}, prefix_space=False)
        inner = _edited(splitter, {"first": "never"}, prefix_space=None)
        built: dict[str, Tokenizer] = {}
        self._start = _build(layout, built)
        # After an added token a text goes on: "first" puts its ▁ at the very beginning only.
        self._after_token = _build(layout | {"pre_tokenizer": inner}, built)
        self._continued = _build(layout | {"pre_tokenizer": never, "normalizer": None}, built)
        self._words = _build(layout | {"normalizer": None}, built) if _DROP_SPACES & _kinds(splitter) else None
        self._normalizer = backend.normalizer
        self._inner_normalizer = _without_prepend(layout)

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Ids of each piece. No begin or end token is added.

        The ids of a piece depend on the pieces before it, never on those behind it.
        """
        result = []
        stretch, at_start = "", True
        for piece in pieces:
            ids: list[int] = []
            for part in self._cut(piece):
                if isinstance(part, int):
                    ids.append(part)
                    stretch, at_start = "", False
                else:
                    ids.extend(self._text_ids(part, before=stretch, at_start=at_start))
                    stretch += part
            result.append(ids)
        return result

    def _cut(self, piece: Piece) -> Iterator[str | int]:
        place = 0
        for found in self.added.find(piece.text, literal=piece.literal):
            if found.start > place:
                yield piece.text[place : found.start]
            yield found.id
            place = found.end
        if place < len(piece.text):
            yield piece.text[place:]

    def _text_ids(self, text: str, *, before: str, at_start: bool) -> list[int]:
        if not before:
            return _ids(self._start if at_start else self._after_token, text)
        rest = self._normalised_rest(text, before)
        if self._words is None:
            return _ids(self._continued, rest)
        end = next((place for place, character in enumerate(rest) if character.isspace()), len(rest))
        return _ids(self._continued, rest[:end]) + _ids(self._words, rest[end:])

    def _normalised_rest(self, text: str, before: str) -> str:
        if self._normalizer is None:
            return text
        whole = self._normalizer.normalize_str(before + text)
        head = self._normalizer.normalize_str(before)
        if whole.startswith(head):
            return whole[len(head) :]
        return text if self._inner_normalizer is None else self._inner_normalizer.normalize_str(text)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids if text else []


def _build(layout: dict[str, Any], built: dict[str, Tokenizer]) -> Tokenizer:
    """A tokenizer of this layout; equal layouts (a large vocabulary takes a second) are built once."""
    text = json.dumps(layout)
    if text not in built:
        built[text] = Tokenizer.from_str(text)
        built[text].encode_special_tokens = True
    return built[text]


def _edited(node: Any, schemes: dict[str, str], *, prefix_space: bool | None) -> Any:
    """A pre-tokenizer's JSON with other prefix rules, wherever they stand in it."""
    node = copy.deepcopy(node)
    for part in _parts(node):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = schemes.get(part["prepend_scheme"], part["prepend_scheme"])
        elif part["type"] == "ByteLevel" and prefix_space is not None:
            part["add_prefix_space"] = prefix_space
    return node


def _kinds(node: Any) -> set[str]:
    return {part["type"] for part in _parts(node)}


def _parts(node: Any) -> list[dict[str, Any]]:
    if node is None:
        return []
    if node["type"] == "Sequence":
        inner = node.get("pretokenizers") or node.get("normalizers") or []
        return [part for item in inner for part in _parts(item)]
    return [node]


def _without_prepend(layout: dict[str, Any]) -> Normalizer | None:
    """The normaliser less its Prepend, for a piece that is normalised alone."""
    kept = [part for part in _parts(layout["normalizer"]) if part["type"] != "Prepend"]
    if not kept:
        return None
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    bare = {"version": layout["version"], "normalizer": {"type": "Sequence", "normalizers": kept}, "model": model}
    return Tokenizer.from_str(json.dumps(bare | {"added_tokens": []})).normalizer
