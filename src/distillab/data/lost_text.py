"""Count text that a tokenizer cannot represent: it drops it or writes its unknown token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Encoding, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_BEFORE = "a "
_UNKNOWN = "\ufdef unknown"  # no text holds this code point


class LostText:
    """Count the characters of a text that no token stands for, without white space.

    A tokenizer with a token for every byte loses nothing and costs nothing here. For others, the offsets of unknown
    tokens are counted. A tokenizer that drops unknown text gets an unknown token for this, because its other offsets
    are wrong after dropped text.

    Args:
        tokenizer: a fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = tokenizer.backend_tokenizer
        self._tokenizer, self._unknown = _counting(backend.to_str(), backend.get_vocab_size())

    def of_rows(self, rows: Sequence[Sequence[str]]) -> list[int]:
        """Return the number of lost characters of each row's texts."""
        if self._tokenizer is None:
            return [0] * len(rows)
        # A prefix space has the offset of the first character, and would hide that this is lost.
        texts = [_BEFORE + text for row in rows for text in row]
        found = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        return [sum(self._lost(text, next(found)) for text in row) for row in rows]

    def _lost(self, text: str, encoding: Encoding) -> int:
        kept, unknown = set[int](), set[int]()
        for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            (unknown if id_ == self._unknown else kept).update(range(start, end))
        held = kept - unknown
        return sum(place not in held and not letter.isspace() for place, letter in enumerate(text, start=len(_BEFORE)))


@lru_cache(maxsize=4)  # of a student and its teachers; a large vocabulary takes a second
def _counting(settings: str, size: int) -> tuple[Tokenizer | None, int | None]:
    """Return a tokenizer that shows what it cannot represent, and its unknown id; None where it represents all.

    Args:
        settings: of a tokenizer of `size` tokens.
    """
    layout: dict[str, Any] = json.loads(settings)
    if _has_every_byte(layout):
        return None, None
    model = layout["model"]
    if model["type"] == "BPE" and model["unk_token"] is None:
        model |= {"vocab": model["vocab"] | {_UNKNOWN: size + len(model["vocab"])}, "unk_token": _UNKNOWN}
    tokenizer = Tokenizer.from_str(json.dumps(layout | {"truncation": None, "padding": None}))
    unknown = model["unk_id"] if model["type"] == "Unigram" else tokenizer.token_to_id(model["unk_token"])
    return tokenizer, unknown


def _has_every_byte(layout: dict[str, Any]) -> bool:
    """Return whether every byte is a token, so that any text can be encoded."""
    model = layout["model"]
    pieces = {piece for piece, _ in model["vocab"]} if model["type"] == "Unigram" else set(model["vocab"])
    if model.get("byte_fallback"):
        return sum(_BYTE_PIECE.fullmatch(piece) is not None for piece in pieces) == 256
    splits_bytes = '"ByteLevel"' in json.dumps([layout["pre_tokenizer"], layout["normalizer"]])
    return splits_bytes and pieces.issuperset(ByteLevel.alphabet())
