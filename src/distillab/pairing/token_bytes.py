"""Map token ids to the bytes that they stand for, for every kind of Hugging Face tokenizer.

Vocabularies spell the same bytes differently: a space is `▁` or `Ġ`, a byte is `<0x0A>` or `Ċ`, a word
continuation is `##ing`. Only bytes can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class TokenMeaning:
    """Meaning of one id.

    Args:
        kind: `text`; `byte`, a byte-fallback token; `special`, a token that stands for no text;
            `unused`, an id below the highest one that no token has.
        data: the bytes of the text; for a special token the UTF-8 bytes of its content.
        roles: of a special token: bos, eos, unk, pad, sep, cls, mask; empty for the others.
    """

    kind: Literal["text", "byte", "special", "unused"]
    data: bytes
    roles: frozenset[str] = frozenset()


def token_meanings(tokenizer: PreTrainedTokenizerFast) -> list[TokenMeaning]:
    """Return the meaning of every id from 0 to the highest one.

    A WordPiece token that starts a word gets a leading space, like `▁` and `Ġ`. An added token that is not special
    stands for its literal text, unless the model's own vocabulary holds it too.
    """
    backend = tokenizer.backend_tokenizer
    scheme = _Scheme.of(tokenizer)
    own = backend.get_vocab(with_added_tokens=False)
    every = backend.get_vocab(with_added_tokens=True)
    roles: dict[int, set[str]] = {}
    for role, id_ in role_ids(tokenizer).items():
        roles.setdefault(id_, set()).add(role)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(roles)
    meanings = [TokenMeaning("unused", b"")] * (max(every.values(), default=-1) + 1)
    for piece, id_ in every.items():
        if id_ in special:
            meanings[id_] = TokenMeaning("special", piece.encode(), frozenset(roles.get(id_, ())))
        elif own.get(piece) == id_:
            meanings[id_] = scheme.meaning(piece)
        else:
            meanings[id_] = TokenMeaning("text", piece.encode())
    return meanings


def means_the_same(teacher: TokenMeaning, student: TokenMeaning) -> bool:
    """Return whether two meanings of one id agree.

    Special tokens agree if their content is equal or they share a role. A token that is special in one tokenizer only
    agrees if its content is equal: the flag changes how texts are split, not the meaning of the row of logits.
    """
    if (teacher.kind, teacher.data) == (student.kind, student.data):
        return True
    kinds = {teacher.kind, student.kind}
    if kinds == {"special"}:
        return bool(teacher.roles & student.roles)
    return kinds == {"special", "text"} and teacher.data == student.data


def role_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return the ids of the special tokens by role; missing roles are left out."""
    named = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return {role: id_ for role, id_ in named.items() if id_ is not None}


def token_byte_lengths(meanings: Sequence[TokenMeaning]) -> NDArray[np.int64]:
    """Return (V,) bytes of text that each id stands for; special and unused ids stand for none."""
    return np.array([len(m.data) if m.kind in ("text", "byte") else 0 for m in meanings], dtype=np.int64)


def byte_spans(ids: Sequence[int], meanings: Sequence[TokenMeaning]) -> NDArray[np.int64]:
    """Return (n, 2) half-open byte ranges of the tokens, by adding up their bytes.

    They refer to the normalised text, with a prefix space if the tokenizer adds one. `unk` stands for an unknown number
    of bytes and counts as 0.
    """
    lengths = [len(meanings[i].data) if meanings[i].kind in ("text", "byte") else 0 for i in ids]
    ends = np.cumsum(np.array(lengths, dtype=np.int64))
    return np.stack([ends - np.array(lengths, dtype=np.int64), ends], axis=1).reshape(-1, 2)


def family(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the kind of tokenizer: byte-level BPE, SentencePiece BPE with byte fallback, Unigram, WordPiece, …"""
    backend = tokenizer.backend_tokenizer
    scheme, kind = _Scheme.of(tokenizer), type(backend.model).__name__
    fallback = " with byte fallback" if scheme.byte_fallback else ""
    if kind != "BPE":
        return f"{kind}{fallback}"
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    pieces = backend.get_vocab(with_added_tokens=False).keys() - added
    if all(len(piece) == 1 or _BYTE_PIECE.fullmatch(piece) for piece in pieces):
        return f"characters{fallback}"
    if scheme.byte_level:
        return "byte-level BPE"
    return f"SentencePiece BPE{fallback}" if scheme.space_mark else f"BPE{fallback}"


@dataclass(frozen=True)
class _Scheme:
    """The spelling of a vocabulary's tokens."""

    byte_level: bool
    byte_fallback: bool
    space_mark: str | None
    continuing: str
    word_end: str
    starts_words: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> _Scheme:
        backend = tokenizer.backend_tokenizer
        model: Any = backend.model
        around = [
            node for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder) for node in _nodes(part)
        ]
        marks = [node["replacement"] for node in around if node["type"] == "Metaspace"]
        marks += [n["content"] for n in around if n["type"] == "Replace" and n["pattern"].get("String") == " "]
        kind = type(model).__name__
        # Unigram does not show this setting as an attribute, so its whole state is read.
        fallback = json.loads(model.__getstate__())["byte_fallback"] if kind == "Unigram" else None
        return cls(
            byte_level=any(node["type"] == "ByteLevel" for node in around),
            byte_fallback=bool(getattr(model, "byte_fallback", fallback)),
            space_mark=next((mark for mark in marks if mark), None),
            continuing=getattr(model, "continuing_subword_prefix", None) or "",
            word_end=getattr(model, "end_of_word_suffix", None) or "",
            starts_words=kind in ("WordPiece", "WordLevel") and not marks,
        )

    def meaning(self, piece: str) -> TokenMeaning:
        if self.byte_fallback and (match := _BYTE_PIECE.fullmatch(piece)):
            return TokenMeaning("byte", bytes([int(match[1], 16)]))
        inside = bool(self.continuing) and piece.startswith(self.continuing) and piece != self.continuing
        text = piece.removeprefix(self.continuing) if inside else piece
        ends_word = bool(self.word_end) and text.endswith(self.word_end)
        text = text.removesuffix(self.word_end) if ends_word else text
        data = _spelled_bytes(text) if self.byte_level else None
        if data is None:
            data = (text.replace(self.space_mark, " ") if self.space_mark else text).encode()
        before = b" " if self.starts_words and not inside else b""
        return TokenMeaning("text", before + data + (b" " if ends_word else b""))


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings of a pipeline component and of everything inside it."""
    if part is not None:
        yield from _flattened(json.loads(part.__getstate__()))


def _flattened(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in (*node.get("normalizers", ()), *node.get("pretokenizers", ()), *node.get("decoders", ())):
        yield from _flattened(inner)


def _byte_alphabet() -> dict[int, str]:
    """Map byte-level spelling to Latin-1: printable characters are themselves, other bytes start at U+0100.

    Latin-1 characters that spell no byte become U+FFFF, which Latin-1 cannot encode.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return dict.fromkeys(hidden, "\uffff") | {0x100 + n: chr(byte) for n, byte in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


def _spelled_bytes(text: str) -> bytes | None:
    """Return the bytes of a byte-level token; None if a character spells no byte (the token is literal text)."""
    try:
        return text.translate(_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return None
