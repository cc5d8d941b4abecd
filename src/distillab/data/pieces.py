"""The pieces that a tokenizer itself cuts a few bytes into, in the middle of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerFast

from distillab.data.border import BorderEncoder, Piece
from distillab.pairing.token_bytes import TokenMeaning

PieceMaker = Callable[[Sequence[bytes]], list[list[int]]]


def canonical_pieces(tokenizer: PreTrainedTokenizerFast, meanings: Sequence[TokenMeaning]) -> PieceMaker:
    """A function from byte strings to ids, as what follows a text: no prefix space, no special tokens.

    Bytes that are no whole characters have ids in byte-level vocabularies only; elsewhere they get none, and neither
    do bytes that the tokenizer's normaliser changes.

    Args:
        tokenizer: of the `tokenizers` library.
        meanings: `token_meanings(tokenizer)`.
    Raises:
        DataError: a tokenizer written in Python.
    """
    borders = BorderEncoder(tokenizer)
    model = tokenizer.backend_tokenizer.model
    letters = {
        meaning.data[0]: letter
        for id_, meaning in enumerate(meanings)
        if meaning.kind == "text"
        and len(meaning.data) == 1
        and len(letter := tokenizer.convert_ids_to_tokens(id_)) == 1
    }

    def of_one(data: bytes) -> list[int]:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            if len(letters) < 256:
                return []
            ids = [token.id for token in model.tokenize("".join(letters[byte] for byte in data))]
        else:
            ids = borders.encode([Piece("a"), Piece(text, ((0, len(text)),))])[1]
        return ids if b"".join(meanings[id_].data for id_ in ids) == data else []

    return lambda many: [of_one(data) for data in many]
