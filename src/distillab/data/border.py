"""Encode parts of one text (prompt, answer) so that no token crosses the border between two parts.

The first part is encoded as usual. A later part is encoded as a *continuation*. Encoding it alone would
insert SentencePiece's prefix space ("▁Yes" for "\\nYes"); encoding both at once and cutting at the
prompt's length moves the cut if a token spans the border.

A tokenizer splits the text at its added tokens and encodes the text between them separately, so only
the text with a border needs a continuation. With N the normaliser and `before` the part of this text
before the border, the part becomes N(before + part) without its prefix N(before), encoded without
normaliser and prefix space. If N joins characters over the border (a combining accent after its letter),
the part is normalised alone.

Known limit: WordPiece marks the inside of a word by "##". A part that begins inside a word is encoded as if
it began one, because the vocabulary has no other way.
"""

from __future__ import annotations

import copy
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from tokenizers import Tokenizer
from tokenizers.normalizers import Normalizer
from transformers import PreTrainedTokenizerFast

from distillab.data.special import AddedTokens, Range
from distillab.errors import DataError

# Pre-tokenizers that drop spaces; a word start is marked in another way (▁ or ##).
_DROP_SPACES = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}
_KEPT_WORDS = 1 << 16  # whose tokens are remembered; the library's 10,000 are filled by a thousand rows

Ids: TypeAlias = "array[int]"  # which Python's collector of garbage does not walk through, as it does through lists


class Piece(NamedTuple):
    """A part of a text. Inside the `literal` ranges, special tokens are ordinary text."""

    text: str
    literal: tuple[Range, ...] = ()


class _Part(NamedTuple):
    """A text without added tokens, and the tokenizer that encodes it."""

    tokenizer: Tokenizer
    text: str


class _Change(NamedTuple):
    """A part of a normaliser, done in Python: the library aligns every character, which takes a fifth of its time.

    Attributes:
        replaced: the character in place of which `by` is written; None: `by` is put before the text.
    """

    replaced: str | None
    by: str

    def of(self, text: str) -> str:
        return self.by + text if self.replaced is None else text.replace(self.replaced, self.by)


_Encode = Callable[[Tokenizer, list[str]], list[Ids]]


@dataclass(frozen=True)
class _Variants:
    """A tokenizer for each place of a part in its text.

    Attributes:
        start: at the very beginning.
        after_token: after an added token. The text continues: "first" puts ▁ at the very beginning only.
        words: from the first white space on, where the tokenizer drops spaces.
        continued: after other text.
        inner_normalizer: of a part that is normalised alone.
        by_character: every character is normalised by itself: a part needs no look at the text before it.
        changes: what is done to a text before `start` and `after_token`, which have no normaliser then.
    """

    start: Tokenizer
    after_token: Tokenizer
    words: Tokenizer | None
    continued: Tokenizer
    inner_normalizer: Normalizer | None
    by_character: bool
    changes: Sequence[_Change]


class BorderEncoder:
    """Encode parts of one text, one list of ids each.

    Special tokens outside the literal ranges become their ids; inside they are encoded as text.

    Args:
        tokenizer: a fast tokenizer.
    Raises:
        DataError: a slow (Python) tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise DataError(
                "A fast tokenizer is needed, to split texts exactly between prompt and answer.",
                facts=[f"got: {type(tokenizer).__name__}"],
                fix="use a folder that has tokenizer.json",
            )
        self.added = AddedTokens(tokenizer)
        self._normalizer = backend.normalizer
        self._variants = _variants(backend.to_str())

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Return the ids of each part, without begin and end tokens.

        The ids of a part depend on the parts before it, never on later ones.
        """
        [found] = self._encoded([pieces], lambda tokenizer, texts: [_encode(tokenizer, text) for text in texts])
        return [ids.tolist() for ids in found]

    def encode_batch(self, texts: Sequence[Sequence[Piece]]) -> list[list[Ids]]:
        """Return `encode` of many texts, through the threads of the tokenizers library."""
        return self._encoded(texts, _encode_batch)

    def _encoded(self, texts: Sequence[Sequence[Piece]], encode: _Encode) -> list[list[Ids]]:
        """Return the ids of each part of each text; what one tokenizer encodes is encoded in one call."""
        found = [[list(parts) for parts in self._parts(pieces)] for pieces in texts]
        wanted = [part for pieces in found for parts in pieces for part in parts if isinstance(part, _Part)]
        ids: dict[int, Iterator[Ids]] = {}
        for tokenizer in {id(part.tokenizer): part.tokenizer for part in wanted}.values():
            ids[id(tokenizer)] = iter(encode(tokenizer, [part.text for part in wanted if part.tokenizer is tokenizer]))
        return [[_joined([*_ids(parts, ids)]) for parts in pieces] for pieces in found]

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[list[int | _Part]]:
        """Yield what each piece consists of: ids of added tokens, and text with the tokenizer that encodes it."""
        text_before, at_start = "", True
        for piece in pieces:
            parts: list[int | _Part] = []
            for part in self._cut(piece):
                if isinstance(part, int):
                    parts.append(part)
                    text_before, at_start = "", False
                else:
                    parts.extend(self._text_parts(part, before=text_before, at_start=at_start))
                    text_before += part
            yield parts

    def _cut(self, piece: Piece) -> Iterator[str | int]:
        place = 0
        for found in self.added.find(piece.text, literal=piece.literal):
            if found.start > place:
                yield piece.text[place : found.start]
            yield found.id
            place = found.end
        if place < len(piece.text):
            yield piece.text[place:]

    def _text_parts(self, text: str, *, before: str, at_start: bool) -> Iterator[_Part]:
        if not before:
            for change in self._variants.changes:
                text = change.of(text)
            yield _Part(self._variants.start if at_start else self._variants.after_token, text)
            return
        rest = self._normalised_rest(text, before)
        end = len(rest)
        if self._variants.words is not None:
            end = next((place for place, character in enumerate(rest) if character.isspace()), len(rest))
        if rest[:end]:
            yield _Part(self._variants.continued, rest[:end])
        if rest[end:] and self._variants.words is not None:
            yield _Part(self._variants.words, rest[end:])

    def _normalised_rest(self, text: str, before: str) -> str:
        if self._normalizer is None or self._variants.by_character:
            for change in self._variants.changes:
                text = text if change.replaced is None else change.of(text)
            return text
        whole = self._normalizer.normalize_str(before + text)
        head = self._normalizer.normalize_str(before)
        if whole.startswith(head):
            return whole[len(head) :]
        return text if self._variants.inner_normalizer is None else self._variants.inner_normalizer.normalize_str(text)


@lru_cache(maxsize=4)  # of a student and its teachers; a large vocabulary takes a second
def _variants(settings: str) -> _Variants:
    """Build the variants of the tokenizer with these settings."""
    layout = json.loads(settings)
    layout.update(truncation=None, padding=None, post_processor=None)
    splitter = layout["pre_tokenizer"]
    never = _edited(splitter, {"always": "never", "first": "never"}, prefix_space=False)
    after_token = _edited(splitter, {"first": "never"}, prefix_space=None)
    built: dict[str, Tokenizer] = {}
    words = _build(layout | {"normalizer": None}, built) if _DROP_SPACES & _kinds(splitter) else None
    inner = _without_prepend(layout)
    by_character = words is None and all(map(_is_by_character, _parts(layout["normalizer"])))
    changes: list[_Change] = []
    # other added tokens are looked for in the normalised text too, but without a normaliser as they are spelled
    if by_character and all(token["special"] for token in layout["added_tokens"]):
        changes = [_change(part) for part in _parts(layout["normalizer"])]
        layout["normalizer"] = inner = None
    return _Variants(
        start=_build(layout, built),
        after_token=_build(layout | {"pre_tokenizer": after_token}, built),
        words=words,
        continued=_build(layout | {"pre_tokenizer": never, "normalizer": inner if by_character else None}, built),
        inner_normalizer=None if inner is None else _normalizer(inner),
        by_character=by_character,
        changes=changes,
    )


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    return array("i", tokenizer.encode(text, add_special_tokens=False).ids)


def _encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[Ids]:
    # without offsets, which nothing here reads
    return [array("i", found.ids) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _ids(parts: Sequence[int | _Part], encoded: dict[int, Iterator[Ids]]) -> Iterator[Ids]:
    for part in parts:
        yield next(encoded[id(part.tokenizer)]) if isinstance(part, _Part) else array("i", [part])


def _joined(parts: list[Ids]) -> Ids:
    return parts[0] if len(parts) == 1 else array("i", b"".join(parts))


def _build(layout: dict[str, Any], built: dict[str, Tokenizer]) -> Tokenizer:
    """Build a tokenizer from its JSON layout; equal layouts are built once."""
    text = json.dumps(layout)
    if text not in built:
        built[text] = Tokenizer.from_str(text)
        built[text].encode_special_tokens = True
        if layout["model"]["type"] == "BPE" and layout["pre_tokenizer"]:  # without one, whole texts would be kept
            built[text].model._resize_cache(_KEPT_WORDS)
    return built[text]


def _edited(node: Any, schemes: dict[str, str], *, prefix_space: bool | None) -> Any:
    """Return a pre-tokenizer's JSON with other prefix rules."""
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


def _is_by_character(normalizer: dict[str, Any]) -> bool:
    """Return whether a part of a normaliser's JSON changes each character by itself, save at the very beginning."""
    kind = normalizer["type"]
    return kind == "Prepend" or (kind == "Replace" and len(normalizer["pattern"].get("String", "")) == 1)


def _change(normalizer: dict[str, Any]) -> _Change:
    if normalizer["type"] == "Prepend":
        return _Change(None, normalizer["prepend"])
    return _Change(normalizer["pattern"]["String"], normalizer["content"])


def _without_prepend(layout: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON of the normaliser without its Prepend, for a part that is normalised alone."""
    kept = [part for part in _parts(layout["normalizer"]) if part["type"] != "Prepend"]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def _normalizer(layout: dict[str, Any]) -> Normalizer | None:
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    bare = {"version": "1.0", "normalizer": layout, "model": model, "added_tokens": []}
    return Tokenizer.from_str(json.dumps(bare)).normalizer
