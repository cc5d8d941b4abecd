"""Tokenise a byte string as the tokenizer would in the middle of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerFast

from distillab.data.border import BorderEncoder, Piece
from distillab.pairing.token_bytes import TokenMeaning

PieceMaker = Callable[[Sequence[bytes]], list[list[int]]]


def canonical_pieces(tokenizer: PreTrainedTokenizerFast, meanings: Sequence[TokenMeaning]) -> PieceMaker:
    """Return a function from byte strings to ids, as a continuation: no prefix space, no special tokens.

    Incomplete characters have ids in byte-level vocabularies only; otherwise the list is empty, as for bytes that the
    normaliser changes.

    Args:
        tokenizer: a fast tokenizer.
        meanings: `token_meanings(tokenizer)`.
    Raises:
        DataError: a slow (Python) tokenizer.
    """
    borders = BorderEncoder(tokenizer)
    model = tokenizer.backend_tokenizer.model
    # Byte-level vocabularies have a token of one letter for every byte.
    letters = {
        meaning.data[0]: letter
        for id_, meaning in enumerate(meanings)
        if meaning.kind == "text"
        and len(meaning.data) == 1
        and len(letter := str(tokenizer.convert_ids_to_tokens(id_))) == 1
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
